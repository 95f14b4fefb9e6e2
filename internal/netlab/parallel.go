package netlab

import "flag"

// Parallel lets more tests run side by side than there are processors, if the
// command line doesn't say how many: tests of silence mostly wait. Call it in
// TestMain.
func Parallel() {
	flag.Parse()
	const name, most = "test.parallel", "8"
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if !given {
		_ = flag.Set(name, most) // there is no such flag outside of tests
	}
}
