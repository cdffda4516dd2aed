package sitework

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html"
)

// LinkCheck is the argument that makes this program check the links of a
// folder. The step check runs it in its sandbox.
const LinkCheck = "linkcheck"

// Links is what LinkCheck prints, as JSON.
type Links struct {
	Internal, External int
	Broken             []string // a line each
}

// WriteLinks follows the links between the pages in dir and writes what it found
// as JSON. Links that are broken are a finding, and no error.
func WriteLinks(w io.Writer, dir fs.FS) error {
	names, err := fs.Glob(dir, "*.html")
	if err != nil {
		return err
	}
	pages := make(map[string]*document, len(names))
	for _, name := range names {
		data, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		if pages[name], err = parse(data); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	var links Links
	for _, name := range names {
		for _, link := range pages[name].links {
			target, err := url.Parse(link)
			switch {
			case err != nil:
				links.Internal++
				links.Broken = append(links.Broken, fmt.Sprintf("%s: %q is no address", name, link))
				continue
			case target.IsAbs() || target.Host != "":
				links.External++
				continue
			}
			links.Internal++
			file := path.Clean(cmp.Or(target.Path, name))
			page, ok := pages[file]
			switch {
			case !ok:
				links.Broken = append(links.Broken, fmt.Sprintf("%s: %q: there is no page %s", name, link, file))
			case target.Fragment != "" && !page.ids[target.Fragment]:
				links.Broken = append(links.Broken, fmt.Sprintf("%s: %q: %s has no heading #%s", name, link, file, target.Fragment))
			}
		}
	}
	return json.NewEncoder(w).Encode(links)
}

// A document is what a page links to, and what can be linked to in it.
type document struct {
	links []string
	ids   map[string]bool
}

func parse(data []byte) (*document, error) {
	root, err := html.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	d := &document{ids: make(map[string]bool)}
	for n := range root.Descendants() {
		for _, a := range n.Attr {
			switch {
			case a.Key == "id":
				d.ids[a.Val] = true
			case a.Key == "href" && n.Data == "a", a.Key == "src" && n.Data == "img":
				d.links = append(d.links, strings.TrimSpace(a.Val))
			}
		}
	}
	return d, nil
}
