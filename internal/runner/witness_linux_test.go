package runner

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Where commands could read the runner's memory it has nothing there that proves it. Either way nothing is left of that for them.
func TestReadWitness(t *testing.T) {
	for closed, want := range map[bool]string{true: "a secret", false: ""} {
		file := filepath.Join(t.TempDir(), "witness")
		if err := os.WriteFile(file, []byte("a secret\n"), 0o400); err != nil {
			t.Fatal(err)
		}
		t.Setenv(EnvWitness, "docker")
		t.Setenv(EnvWitnessBroker, base64.StdEncoding.EncodeToString([]byte("a key")))
		t.Setenv(EnvWitnessFile, file)
		w, err := readWitness(func() bool { return closed })
		if err != nil || string(w.Secret) != want || (w.Backend != "") != closed {
			t.Errorf("closed: %v: got %+v, %v", closed, w, err)
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("closed: %v: the file: %v", closed, err)
		}
	}
	t.Setenv(EnvWitness, "")
	if w, err := readWitness(func() bool { t.Error("nobody asks"); return false }); err != nil || w.Backend != "" {
		t.Errorf("without one: %+v, %v", w, err)
	}
}
