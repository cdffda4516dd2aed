package testenv

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// A VaultServer is a HashiCorp Vault, or an OpenBao, that tests may do anything with.
type VaultServer struct {
	Address, Token string // of a root token
}

// Vault returns a Vault, or skips the test. It is the one of VAULT_ADDR and VAULT_TOKEN,
// or the one that services/vault/up starts: for that this must run on Linux, with
// STEPWARD_TEST_VAULT=up or STEPWARD_TEST_REQUIRE naming the part, because it takes
// minutes to build the first time. It stays until services/vault/down. Tests share
// it: each mounts engines and methods of its own.
func Vault(t testing.TB) VaultServer {
	t.Helper()
	v, err := vault()
	if err != nil {
		Skip(t, PartVault, err.Error())
	}
	return v
}

var vault = sync.OnceValues(func() (VaultServer, error) {
	if addr := os.Getenv("VAULT_ADDR"); addr != "" {
		return VaultServer{addr, os.Getenv("VAULT_TOKEN")}, nil
	}
	switch {
	case runtime.GOOS != "linux":
		return VaultServer{}, errors.New("no VAULT_ADDR is set, and only on Linux one is started")
	case os.Getenv("STEPWARD_TEST_VAULT") != "up" && !Required(PartVault):
		return VaultServer{}, errors.New("no VAULT_ADDR is set; STEPWARD_TEST_VAULT=up starts a Vault, whose first build takes minutes")
	}
	vars, err := variables("vault/up")
	if err != nil {
		return VaultServer{}, err
	}
	return VaultServer{vars["VAULT_ADDR"], vars["VAULT_TOKEN"]}, nil
})

// variables runs a script of services that prints lines of "export NAME=VALUE NAME=VALUE".
func variables(script string) (map[string]string, error) {
	out, err := service(script)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for _, word := range strings.Fields(out) {
		if name, value, ok := strings.Cut(word, "="); ok {
			vars[name] = value
		}
	}
	if len(vars) == 0 {
		return nil, fmt.Errorf("services/%s printed %q", script, out)
	}
	return vars, nil
}
