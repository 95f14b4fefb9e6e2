//go:build race

package dial

const raceEnabled = true // under which everything takes longer
