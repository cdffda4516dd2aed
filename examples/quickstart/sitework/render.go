package sitework

import (
	"bytes"
	"context"
	"html/template"
	"time"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
)

// renderPage runs inside the sandbox. It is a function like any other: it would
// run inline if the step's mode were Bare.
func renderPage(ctx context.Context, p Page) (string, error) {
	if p.Pause > 0 {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(p.Pause):
		}
	}
	markdown := goldmark.New(
		goldmark.WithExtensions(extension.GFM),
		goldmark.WithParserOptions(parser.WithAutoHeadingID()), // for links to "page.html#heading"
	)
	var body, page bytes.Buffer
	if err := markdown.Convert([]byte(p.Markdown), &body); err != nil {
		return "", err
	}
	err := layout.Execute(&page, struct {
		Page
		Body template.HTML // goldmark leaves out raw HTML and dangerous links
	}{p, template.HTML(body.String())}) //nolint:gosec // see above
	return page.String(), err
}

var layout = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{if eq .Title .Site}}{{.Site}}{{else}}{{.Title}} – {{.Site}}{{end}}</title>
<style>body { max-width: 40rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif } nav { display: flex; gap: 1rem }</style>
<nav>
<a href="index.html">{{.Site}}</a>
{{- with .Prev.File}}
<a href="{{.}}" rel="prev">← {{$.Prev.Title}}</a>{{end}}
{{- with .Next.File}}
<a href="{{.}}" rel="next">{{$.Next.Title}} →</a>{{end}}
</nav>
<main>
{{.Body}}</main>
</html>
`))
