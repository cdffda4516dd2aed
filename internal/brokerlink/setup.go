// Package brokerlink is how a worker and its broker come together: the broker as a
// child of the worker's own program, or at an address.
package brokerlink

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// EnvBroker says to a program that it was started as a broker.
const EnvBroker = "STEPWARD_BROKER"

// envLauncher says to it that it was left behind to start brokers, as this user.
const envLauncher = "STEPWARD_LAUNCHER"

// A User is one of the operating system's.
type User struct {
	UID, GID int
	Home     string
}

// homes has the homes of users without a name.
const homes = "/var/lib/stepward"

// Unnamed returns a user that need not be known to the system.
func Unnamed(uid int) User { return User{uid, uid, homes + "/" + strconv.Itoa(uid)} }

// Started reports whether this process was started as a broker. What it starts is not.
func Started() bool {
	_, ok := os.LookupEnv(EnvBroker)
	os.Unsetenv(EnvBroker)
	return ok
}

// ready is set by a program that serves as a broker when it is started as one.
var ready atomic.Bool

// CanServe says that this program does: a worker may start it as its broker.
func CanServe() { ready.Store(true) }

// Setup is what a broker that is a child learns from its worker, by its standard
// input: not by arguments or its environment, which others can read.
type Setup struct {
	Schema   string
	Database string // a connection string
	Host     string
	Port     uint16
	Name     string
	User     string
	Password string
	Params   map[string]string
	Mode     pgx.QueryExecMode
}

// NewSetup describes the database of a worker.
func NewSetup(pool *pgxpool.Pool, schema string) Setup {
	c := pool.Config()
	return Setup{
		Schema: schema, Database: c.ConnString(),
		Host: c.ConnConfig.Host, Port: c.ConnConfig.Port, Name: c.ConnConfig.Database,
		User: c.ConnConfig.User, Password: c.ConnConfig.Password, Params: c.ConnConfig.RuntimeParams,
		Mode: c.ConnConfig.DefaultQueryExecMode,
	}
}

// ReadSetup reads one.
func ReadSetup(r io.Reader) (s Setup, err error) {
	if err = json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(&s); err != nil {
		err = fmt.Errorf("broker: read what the worker says: %w", err)
	}
	return s, err
}

// Config returns that of a pool with few connections to the database. What a program
// has changed of its pool's configuration in other ways is not in it.
func (s Setup) Config() (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(s.Database)
	if err != nil {
		return nil, fmt.Errorf("broker: the worker's database: %w", err)
	}
	cc := c.ConnConfig
	if cc.TLSConfig != nil && cc.Host != s.Host {
		cc.TLSConfig = cc.TLSConfig.Clone()
		cc.TLSConfig.ServerName = s.Host
	}
	cc.Host, cc.Port, cc.Database, cc.User, cc.Password = s.Host, s.Port, s.Name, s.User, s.Password
	cc.RuntimeParams = s.Params
	cc.DefaultQueryExecMode = s.Mode
	c.MinConns, c.MaxConns = 0, 4
	return c, nil
}
