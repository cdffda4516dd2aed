package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/client"
)

// schemaOfURL is where the program keeps its tables on a server that it did not
// start.
const schemaOfURL = "stepward_quickstart"

// useServer makes the program use a server, and removes its tables afterwards.
func (r *run) useServer(url string) {
	r.t.Helper()
	r.env = append(r.env, "DATABASE_URL="+url)
	r.t.Cleanup(func() {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			r.t.Error(err)
			return
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, "SET client_min_messages = warning; DROP SCHEMA IF EXISTS "+
			schemaOfURL+", "+schemaOfURL+"_river CASCADE"); err != nil {
			r.t.Error(err)
		}
	})
}

// useEngine makes the program use a Docker engine.
func (r *run) useEngine(host string) { r.env = append(r.env, "DOCKER_HOST="+host) }

// wantNoContainers checks that no sandbox of the program is left.
func (r *run) wantNoContainers(host string) {
	r.t.Helper()
	c, err := client.New(client.WithHost(host))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	left, err := c.ContainerList(r.t.Context(), client.ContainerListOptions{
		All: true, Filters: client.Filters{}.Add("label", "stepward.schema="+schemaOfURL),
	})
	if err != nil || len(left.Items) > 0 {
		r.t.Errorf("containers stay: %+v, %v", left.Items, err)
	}
}
