package disk

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever is added to the package goes through the seam.
func TestEveryCallIsAStep(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seam := map[string]bool{"do": true, "doNamed": true, "before": true}
	checked := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "other.go" {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() || f.Name.Name == "Intercept" {
				continue
			}
			checked++
			if !reachesSeam(f, seam) {
				t.Errorf("%s is not a step: it calls none of do, doNamed, before and no exported call", f.Name.Name)
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d calls were found", checked)
	}
}

// reachesSeam reports whether a function calls the seam, or another call of the package.
func reachesSeam(f *ast.FuncDecl, seam map[string]bool) (reaches bool) {
	ast.Inspect(f.Body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if name, ok := call.Fun.(*ast.Ident); ok && (seam[name.Name] || ast.IsExported(name.Name)) {
				reaches = true
			}
		}
		return true
	})
	return reaches
}
