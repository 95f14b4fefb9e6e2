//go:build !race

package grpcclient

const raceEnabled = false
