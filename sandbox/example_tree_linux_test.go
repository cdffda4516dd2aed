package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing/fstest"

	"github.com/stepward/stepward/sandbox"
	"github.com/stepward/stepward/sandbox/local"
)

// Trees go in and out as streams. What comes out of a sandbox is files, or refused.
func ExampleSandbox_Download() {
	ctx := context.Background()
	s, err := sandbox.Start(ctx, local.New(local.Config{}), sandbox.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Destroy(ctx)
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	site := fstest.MapFS{"pages/index.txt": {Data: []byte("a page\n"), Mode: 0o644}}
	if err := s.Upload(ctx, site, "site"); err != nil {
		fmt.Println(err)
	}
	if err := s.Command("sh", "-c", "cd site; cp pages/index.txt index; ln -s /etc/passwd about").Run(ctx); err != nil {
		fmt.Println(err)
	}
	var te *sandbox.TreeError
	if err := s.Download(ctx, "site", dir+"/all", sandbox.DownloadOptions{}); errors.As(err, &te) {
		fmt.Println(te)
	}
	err = s.Download(ctx, "site", dir+"/some", sandbox.DownloadOptions{Skip: func(*sandbox.TreeError) {}})
	page, _ := os.ReadFile(dir + "/some/index")
	fmt.Printf("%q %v\n", page, err)
	// Output:
	// sandbox: tree entry "about": is a symbolic link out of the tree, to "/etc/passwd"
	// "a page\n" <nil>
}
