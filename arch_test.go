package holdfast_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/holdfast-go/holdfast"

// mayImport is who imports whom, outside of tests: for every package of the
// root module the packages of this module that it may import, and the
// modules of others. The standard library is free.
var mayImport = map[string][]string{
	".":                       {},
	"internal/sockopt":        {"golang.org/x/sys"},
	"internal/netlab":         {"golang.org/x/sys"},
	"internal/netlab/labdial": {module + "/dial", module + "/internal/netlab"},
	"health":                  {module + "/internal/sockopt", "golang.org/x/sys"}, // epoll
	"dial":                    {module + "/health", module + "/internal/sockopt"},
	"pool":                    {module + "/health", "github.com/jackc/puddle/v2"},
	"httpclient":              {module + "/dial", module + "/health", module + "/pool"},
}

// source is what one directory of Go files says.
type source struct {
	imports map[string]bool // outside of tests, standard library aside
	doc     string
}

func readSources(t *testing.T, root string) map[string]source {
	t.Helper()
	out := map[string]source{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); file != root && (strings.HasPrefix(name, ".") || name == "testdata" || isModule(file)) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		s, ok := out[dir]
		if !ok {
			s.imports = map[string]bool{}
		}
		if f.Doc != nil {
			s.doc += f.Doc.Text()
		}
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if strings.Contains(strings.Split(p, "/")[0], ".") {
				s.imports[p] = true
			}
		}
		out[dir] = s
		return nil
	})
	require.NoError(t, err)
	return out
}

func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func TestPackagesImportOnlyWhatTheyMay(t *testing.T) {
	for dir, s := range readSources(t, ".") {
		allowed, known := mayImport[dir]
		require.True(t, known, "package %s is not in the import graph: add it to mayImport", dir)
		s.requireImports(t, dir, allowed)
	}
}

func (s source) requireImports(t *testing.T, dir string, allowed []string) {
	t.Helper()
	for p := range s.imports {
		ok := slices.ContainsFunc(allowed, func(a string) bool { return p == a || !strings.HasPrefix(a, module) && strings.HasPrefix(p, a+"/") })
		require.True(t, ok, "package %s imports %s, which it may not", dir, p)
	}
}

// The nested module of gRPC's users.
func TestGrpcclientImportsOnlyWhatItMay(t *testing.T) {
	allowed := []string{module + "/dial", module + "/health", "google.golang.org/grpc"}
	for dir, s := range readSources(t, "grpcclient") {
		require.Equal(t, ".", dir)
		require.True(t, strings.HasPrefix(s.doc, "Package grpcclient "))
		s.requireImports(t, "grpcclient", allowed)
	}
}

func TestEveryPackageHasADocComment(t *testing.T) {
	for dir, s := range readSources(t, ".") {
		require.True(t, strings.HasPrefix(s.doc, "Package "), "package %s has no doc comment", dir)
		require.Equal(t, 1, strings.Count("\n"+s.doc, "\nPackage "), "package %s has more than one doc comment", dir)
	}
}

func TestEveryPackageInTheGraphExists(t *testing.T) {
	sources := readSources(t, ".")
	for dir := range mayImport {
		require.Contains(t, sources, dir)
	}
}

// TestTheRootModuleStaysSmall: whoever needs only this module gets puddle and
// x/sys, and for its tests an assertion, a leak and a property library.
func TestTheRootModuleStaysSmall(t *testing.T) {
	direct, replaced := readMod(t, "go.mod")
	require.ElementsMatch(t, []string{
		"github.com/jackc/puddle/v2",
		"golang.org/x/sys",
		"github.com/stretchr/testify",
		"go.uber.org/goleak",
		"pgregory.net/rapid",
	}, direct)
	require.Empty(t, replaced, "a replacement in the root module would not reach its users")
}

// TestNestedModulesUseThisTree: each works without the workspace, and inside
// this repository on this repository's code.
func TestNestedModulesUseThisTree(t *testing.T) {
	work, err := os.ReadFile("go.work")
	require.NoError(t, err)
	mods, err := filepath.Glob("*/go.mod")
	require.NoError(t, err)
	for _, mod := range mods {
		_, replaced := readMod(t, mod)
		require.Contains(t, replaced, module+" => ../", mod)
		if dir := path.Dir(filepath.ToSlash(mod)); dir != "bench" { // its peers are heavy
			require.Contains(t, string(work), "./"+dir, "go.work doesn't join %s", dir)
		}
	}
}

// readMod returns the modules that a go.mod requires directly, and its
// replacements.
func readMod(t *testing.T, file string) (direct, replaced []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if r, ok := strings.CutPrefix(line, "replace "); ok {
			replaced = append(replaced, r)
			continue
		}
		fields := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(fields) == 2 && strings.Contains(fields[0], ".") && strings.HasPrefix(fields[1], "v") {
			direct = append(direct, fields[0])
		}
	}
	return direct, replaced
}
