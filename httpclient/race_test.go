//go:build race

package httpclient

const raceEnabled = true // under which everything takes longer
