package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/stepward/stepward/identity/broker"
	"github.com/stepward/stepward/identity/filestore"
	"github.com/stepward/stepward/identity/sops"
	"github.com/stepward/stepward/identity/vault"
	"github.com/stepward/stepward/sandbox/docker"
)

// options are what the program is told.
type options struct {
	database, schema, dir                  string
	socket, peers                          string
	listen, cert, key, ca, names           string
	health                                 string
	docker, program, image, runtime        string
	noPull                                 bool
	images                                 string
	files, passphraseFile, sops            string
	vault, tokenFile                       string
	roleID, secretIDFile, kubernetes, role string
	namespace, places, dynamic, wrapped    string
	put                                    []string // tenant and name; nil: serve
}

const usage = `brokerd FLAGS                              serves workers
brokerd -files FOLDER put TENANT NAME      puts a secret from standard input into a file store

Each flag may be said by the environment: -vault-token-file by BROKERD_VAULT_TOKEN_FILE.

`

// parse reads arguments, and what they leave out from the environment.
func parse(args []string, env func(string) (string, bool)) (options, error) {
	var o options
	f := flag.NewFlagSet("brokerd", flag.ContinueOnError)
	f.StringVar(&o.database, "database", "", "`connection` string of Postgres, of a role with the rights of MigrateOptions.BrokerRole")
	f.StringVar(&o.schema, "schema", "", "schema of the tables (default stepward)")
	f.StringVar(&o.dir, "dir", "", "`folder` of the broker's key, which is made there; brokers on several hosts need copies of one")
	f.StringVar(&o.socket, "socket", "", "`path` of the unix socket to serve")
	f.StringVar(&o.peers, "peers", "", "`users` who may connect to it, by name or number, with commas (default: the broker's own)")
	f.StringVar(&o.listen, "listen", "", "`address` to serve by TLS")
	f.StringVar(&o.cert, "cert", "", "`file` with the certificate to show there, read for each connection")
	f.StringVar(&o.key, "key", "", "`file` with its key")
	f.StringVar(&o.ca, "ca", "", "`file` with the certificates of those who sign for workers")
	f.StringVar(&o.names, "names", "", "DNS `names` of the workers' certificates that are let in, with commas (default: all)")
	f.StringVar(&o.health, "health", "", "`address` to answer GET /healthz at, without TLS")
	f.StringVar(&o.docker, "docker", "", "`address` of a Docker engine to make the workers' sandboxes, which no worker may use: unix:///run/docker.sock, or tcp with TLS, by DOCKER_CERT_PATH and DOCKER_TLS_VERIFY")
	f.StringVar(&o.program, "docker-program", "", "static `program` of the workers, for the sandboxes")
	f.StringVar(&o.image, "docker-image", "", "`image` of sandboxes that name none")
	f.StringVar(&o.images, "docker-images", "", "`images` that workers may name, with commas: app, app:1, app@sha256:…, registry.example.com/team/* (default: none)")
	f.BoolVar(&o.noPull, "docker-no-pull", false, "have the engine pull no images; else it pulls of -docker-images what it lacks, if a worker names it with its registry, and -docker-image")
	f.StringVar(&o.runtime, "docker-runtime", "", "`runtime` of the engine for sandboxes, as runsc")
	f.StringVar(&o.files, "files", "", "`folder` of a file store: file://")
	f.StringVar(&o.passphraseFile, "files-passphrase-file", "", "`file` with the passphrase that opens it (default: an identity beside the folder)")
	f.StringVar(&o.sops, "sops", "", "`folder` of files for sops, which gets the SOPS_ variables of the environment: sops://")
	f.StringVar(&o.vault, "vault", "", "`URL` of Vault: vault://")
	f.StringVar(&o.tokenFile, "vault-token-file", "", "`file` with a token that something else renews")
	f.StringVar(&o.roleID, "vault-approle", "", "`id` of an AppRole")
	f.StringVar(&o.secretIDFile, "vault-secret-id-file", "", "`file` with its secret id")
	f.StringVar(&o.kubernetes, "vault-kubernetes", "", "`role` to log in to as the pod's service account")
	f.StringVar(&o.role, "vault-token-role", "", "`role` of the tokens of attempts, for -vault-dynamic")
	f.StringVar(&o.namespace, "vault-namespace", "", "`namespace` of Vault Enterprise or OpenBao")
	f.StringVar(&o.places, "vault-places", "", "`places` of secrets, MOUNT:PATH with commas, and {tenant} in the path (default secret:{tenant}/, unless there is -vault-dynamic or -vault-wrapped)")
	f.StringVar(&o.wrapped, "vault-wrapped", "", "`places` whose values Vault wraps for the sandboxes, which fetch them there themselves: the network of each step has to allow it")
	f.StringVar(&o.dynamic, "vault-dynamic", "", "`places` whose engines make a secret for who asks, as database:creds/{tenant}")
	f.Usage = func() {
		fmt.Fprint(f.Output(), usage)
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	said := make(map[string]bool)
	f.Visit(func(g *flag.Flag) { said[g.Name] = true })
	f.VisitAll(func(g *flag.Flag) {
		if v, ok := env("BROKERD_" + strings.ToUpper(strings.ReplaceAll(g.Name, "-", "_"))); ok && !said[g.Name] {
			_ = g.Value.Set(v) // a string's does not fail
		}
	})
	if f.NArg() > 0 {
		if f.NArg() != 3 || f.Arg(0) != "put" || o.files == "" {
			return o, fmt.Errorf("unknown arguments %q: want none, or -files and: put TENANT NAME", f.Args())
		}
		o.put = f.Args()[1:]
		return o, nil
	}
	return o, o.check()
}

func (o options) check() error {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(o.database != "", "-database is required")
	need(o.socket != "" || o.listen != "", "-socket or -listen is required")
	need(o.listen == "" || o.cert != "" && o.key != "" && o.ca != "", "-listen needs -cert, -key and -ca")
	need(o.files != "" || o.sops != "" || o.vault != "", "one of -files, -sops and -vault is required")
	need((o.docker != "") == (o.program != "") && (o.docker != "" || o.image+o.images+o.runtime == "" && !o.noPull), "-docker and -docker-program go together, and -docker-image, -docker-images, -docker-no-pull and -docker-runtime with them")
	logins := 0
	for _, login := range []string{o.tokenFile, o.roleID, o.kubernetes} {
		if login != "" {
			logins++
		}
	}
	need((o.vault != "") == (logins == 1), "-vault needs one of -vault-token-file, -vault-approle and -vault-kubernetes")
	need(o.vault != "" || o.role+o.namespace+o.places+o.dynamic+o.wrapped == "", "-vault-token-role, -vault-namespace, -vault-places, -vault-wrapped and -vault-dynamic are for -vault")
	need((o.role != "") == (o.dynamic != ""), "-vault-token-role and -vault-dynamic go together")
	need(o.passphraseFile == "" || o.files != "", "-files-passphrase-file is for -files")
	need((o.roleID != "") == (o.secretIDFile != ""), "-vault-approle and -vault-secret-id-file go together")
	return errors.Join(errs...)
}

// config opens what the broker needs but for Postgres.
func (o options) config() (broker.Config, error) {
	cfg := broker.Config{Schema: o.schema, Dir: o.dir, Stores: make(map[string]broker.Store)}
	var err error
	if cfg.Peers, err = users(o.peers); err != nil {
		return cfg, err
	}
	if o.listen != "" {
		if cfg.TLS, err = o.tls(); err != nil {
			return cfg, err
		}
	}
	if o.docker != "" {
		cfg.Sandboxes = docker.New(docker.Config{Host: o.docker, Program: o.program, Image: o.image, Runtime: o.runtime, NoPull: o.noPull})
		cfg.Images = strings.FieldsFunc(o.images, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if o.files != "" {
		s, err := filestore.Open(o.fileStore())
		if err != nil {
			return cfg, err
		}
		cfg.Stores["file"] = s
	}
	if o.sops != "" {
		env := slices.DeleteFunc(os.Environ(), func(v string) bool { return !strings.HasPrefix(v, "SOPS_") })
		s, err := sops.New(sops.Config{Dir: o.sops, Env: env})
		if err != nil {
			return cfg, err
		}
		cfg.Stores["sops"] = s
	}
	if o.vault != "" {
		c := vault.Config{Address: o.vault, TokenRole: o.role, Namespace: o.namespace}
		for i, list := range []string{o.places, o.dynamic, o.wrapped} {
			for place := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
				mount, path, ok := strings.Cut(place, ":")
				if !ok {
					return cfg, fmt.Errorf("-vault-places, -vault-dynamic, -vault-wrapped: %q is not MOUNT:PATH", place)
				}
				c.Places = append(c.Places, vault.Place{Mount: mount, Path: path, Dynamic: i == 1, Wrap: i == 2})
			}
		}
		switch {
		case o.tokenFile != "":
			c.Auth = vault.Token{Source: file(o.tokenFile)}
		case o.roleID != "":
			c.Auth = vault.AppRole{RoleID: o.roleID, SecretID: file(o.secretIDFile)}
		default:
			c.Auth = vault.Kubernetes{Role: o.kubernetes}
		}
		s, err := vault.New(c)
		if err != nil {
			return cfg, err
		}
		cfg.Stores["vault"] = s
	}
	return cfg, nil
}

// fileStore is for what serves the file store, and what puts into it.
func (o options) fileStore() filestore.Config {
	c := filestore.Config{Dir: o.files}
	if o.passphraseFile != "" {
		c.Passphrase = func() ([]byte, error) {
			b, err := os.ReadFile(o.passphraseFile)
			return bytes.TrimRight(b, "\r\n"), err
		}
	}
	return c
}

// file reads a file at each login.
func file(path string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		b, err := os.ReadFile(path)
		return string(b), err
	}
}

// users returns those of a list; nil: it is empty.
func users(list string) (out []uint32, err error) {
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		id := name
		if _, err := strconv.ParseUint(name, 10, 32); err != nil {
			u, err := user.Lookup(name)
			if err != nil {
				return nil, fmt.Errorf("-peers: %w", err)
			}
			id = u.Uid
		}
		uid, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("-peers: %w", err)
		}
		out = append(out, uint32(uid))
	}
	return out, nil
}

// tls is for workers with a certificate of one of the names.
func (o options) tls() (*tls.Config, error) {
	pem, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("-ca: %s has no certificate", o.ca)
	}
	load := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(o.cert, o.key)
		return &c, err
	}
	if _, err := load(nil); err != nil {
		return nil, err
	}
	cfg := &tls.Config{GetCertificate: load, ClientCAs: pool, MinVersion: tls.VersionTLS13}
	if names := strings.FieldsFunc(o.names, func(r rune) bool { return r == ',' || r == ' ' }); len(names) > 0 {
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			for _, name := range s.PeerCertificates[0].DNSNames {
				if slices.Contains(names, name) {
					return nil
				}
			}
			return errors.New("the worker's certificate has none of the names that are let in")
		}
	}
	return cfg, nil
}
