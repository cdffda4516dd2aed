package bootstrap

import (
	"cmp"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/stepward/stepward/internal/brokerlink"
	"github.com/stepward/stepward/workflow"
)

// Users that no system gives to anyone: see https://systemd.io/UIDS-GIDS.
const (
	workerUser = "65521"
	brokerUser = "65522"
)

// separate has a program that was started as root go on as an ordinary user, and its brokers as another.
func (c Config) separate(definitions []*workflow.Definition) error {
	if os.Getuid() != 0 || !lends(definitions) || !brokerlink.CanSeparate() {
		return nil
	}
	worker, err := lookUp(cmp.Or(c.User, workerUser))
	if err != nil || worker.UID == 0 {
		return err
	}
	broker, err := lookUp(cmp.Or(c.BrokerUser, brokerUser))
	if err != nil {
		return err
	}
	if broker.UID == worker.UID {
		return fmt.Errorf("Config.User and Config.BrokerUser are both user %d", worker.UID)
	}
	if why := brokerlink.Hindered(worker, broker); why != "" {
		if c.User != "" || c.BrokerUser != "" {
			return fmt.Errorf("become Config.User, with a broker as Config.BrokerUser: %s", why)
		}
		fmt.Fprintf(os.Stderr, "stepward: started as root, and stays root, so that secrets are level L1-dev: %s (see bootstrap.Config.User)\n", why)
		return nil
	}
	fmt.Fprintf(os.Stderr, "stepward: started as root: goes on as user %d, and its broker of secrets as user %d. Out of reach from here on are files "+
		"that only root may write, ports under 1024, Docker's socket, limits by cgroups, and Postgres where it takes root as a peer. "+
		"bootstrap.Config{User: \"root\"} stays root, with secrets at level L1-dev\n", worker.UID, broker.UID)
	return brokerlink.Separate(worker, broker)
}

// lends reports whether any step may have secrets.
func lends(definitions []*workflow.Definition) bool {
	for _, d := range definitions {
		for _, s := range d.Engine().Steps {
			if workflow.Mode(s.Mode) >= workflow.Identity {
				return true
			}
		}
	}
	return false
}

// lookUp returns a user by name or number.
func lookUp(name string) (brokerlink.User, error) {
	uid, err := strconv.ParseUint(name, 10, 31)
	known, unknown := user.LookupId(name)
	if err != nil {
		known, unknown = user.Lookup(name)
	}
	switch {
	case unknown == nil:
		id, _ := strconv.Atoi(known.Uid)
		gid, err := strconv.Atoi(known.Gid)
		return brokerlink.User{UID: id, GID: gid, Home: known.HomeDir}, err
	case err != nil:
		return brokerlink.User{}, fmt.Errorf("Config.User or BrokerUser: %w", unknown)
	}
	return brokerlink.Unnamed(int(uid)), nil
}
