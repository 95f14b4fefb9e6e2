//go:build race

package grpcclient

const raceEnabled = true // under which everything takes longer
