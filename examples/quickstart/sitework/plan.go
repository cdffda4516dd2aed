package sitework

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"

	"github.com/stepward/stepward/examples/quickstart/site"
	"github.com/stepward/stepward/workflow"
)

// A Plan is a brief, cut into pages.
type Plan struct {
	Title string
	Pages []Page // the first is the index
}

// A Page is what one call of render works on.
type Page struct {
	Site, Title string
	File        string
	Markdown    string
	Prev, Next  Link
	Pause       time.Duration
}

// A Link leads to another page. It is empty where there is none.
type Link struct{ Title, File string }

const indexFile = "index.html"

// planSite cuts the brief at its headings. What is wrong with a brief is wrong
// every time, so its errors are permanent: no attempt is wasted on them.
func planSite(_ context.Context, brief site.Brief) (Plan, error) {
	p, err := cut(brief)
	if err != nil {
		return Plan{}, workflow.Permanent(err)
	}
	return p, nil
}

func cut(brief site.Brief) (Plan, error) {
	src := []byte(strings.TrimPrefix(brief.Markdown, "\ufeff"))
	if len(bytes.TrimSpace(src)) == 0 {
		return Plan{}, errors.New("the brief is empty")
	}
	index := Page{File: indexFile, Markdown: string(src)}
	var pages []Page
	taken := map[string]string{indexFile: "the index"}
	document := goldmark.DefaultParser().Parse(text.NewReader(src))
	// Only headings of the parsed document count: a "## " inside a code block
	// begins no page.
	for node := document.FirstChild(); node != nil; node = node.NextSibling() {
		heading, ok := node.(*ast.Heading)
		if !ok || heading.Level > 2 {
			continue
		}
		title, start := plainText(heading, src), lineStart(src, heading)
		if heading.Level == 1 && index.Title == "" && len(pages) == 0 {
			index.Title = title
			continue
		}
		file := fileName(title)
		if file == "" {
			return Plan{}, fmt.Errorf("line %d: the heading %q has no letter or digit to name its page by", lineNumber(src, start), title)
		}
		if other, ok := taken[file]; ok {
			return Plan{}, fmt.Errorf("line %d: page %q and %s would both be %s: change one heading", lineNumber(src, start), title, other, file)
		}
		taken[file] = fmt.Sprintf("page %q of line %d", title, lineNumber(src, start))
		// The page before ends here.
		if last := len(pages) - 1; last >= 0 {
			pages[last].Markdown = strings.TrimSuffix(pages[last].Markdown, string(src[start:]))
		} else {
			index.Markdown = string(src[:start])
		}
		pages = append(pages, Page{Title: title, File: file, Markdown: string(src[start:])})
	}
	index.Title = cmp.Or(index.Title, brief.Name)
	if len(pages) > 0 {
		index.Markdown += "\n\n"
		for _, p := range pages {
			index.Markdown += fmt.Sprintf("- [%s](%s)\n", escape(p.Title), p.File)
		}
	}
	pages = append([]Page{index}, pages...)
	for i := range pages {
		pages[i].Site, pages[i].Pause = index.Title, brief.Pause
		if i > 0 {
			pages[i].Prev = Link{pages[i-1].Title, pages[i-1].File}
		}
		if i < len(pages)-1 {
			pages[i].Next = Link{pages[i+1].Title, pages[i+1].File}
		}
	}
	return Plan{Title: index.Title, Pages: pages}, nil
}

// plainText is a heading without its markup.
func plainText(n ast.Node, src []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		switch n := n.(type) {
		case *ast.Text:
			if entering {
				b.Write(n.Segment.Value(src))
			}
		case *ast.String:
			if entering {
				b.Write(n.Value)
			}
		}
		return ast.WalkContinue, nil
	})
	return strings.TrimSpace(b.String())
}

// lineStart is where the line of a heading begins.
func lineStart(src []byte, heading *ast.Heading) int {
	pos := max(heading.Pos(), 0)
	if lines := heading.Lines(); lines.Len() > 0 {
		pos = lines.At(0).Start
	}
	return bytes.LastIndexByte(src[:pos], '\n') + 1
}

func lineNumber(src []byte, pos int) int { return bytes.Count(src[:pos], []byte("\n")) + 1 }

// fileName makes "opening-hours.html" of "Opening hours".
func fileName(title string) string {
	words := strings.FieldsFunc(strings.ToLower(title), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r)
	})
	name := []rune(strings.Join(words, "-"))
	if len(name) == 0 {
		return ""
	}
	return string(name[:min(len(name), 60)]) + ".html" // 60 letters fit into the 255 bytes of a file name
}

// escape keeps a title from being read as Markdown again.
func escape(title string) string {
	var b strings.Builder
	for _, r := range title {
		if r < unicode.MaxASCII && unicode.IsPunct(r) || r == '<' || r == '>' || r == '`' || r == '|' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
