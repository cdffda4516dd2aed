package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/stepward/stepward/audit"
)

// trail prints what is on record of both customers' secrets: who did what with which, and no value.
func (s *story) trail(ctx context.Context) error {
	fmt.Println("\nOn record:")
	for _, tenant := range []string{"acme", "globex"} {
		events, err := audit.Events(ctx, s.Pool, audit.Filter{Schema: s.Schema, Tenant: &tenant, Kinds: []string{
			audit.ProfilePut, audit.EnvelopeIssued, audit.EnvelopeRefused, audit.KeyWithheld, audit.KeyRotated, audit.IdentityRevoked,
		}})
		if err != nil {
			return err
		}
		for _, e := range events {
			text, err := describe(e)
			if err != nil {
				return err
			}
			fmt.Printf("%-7s %-16s by %-15s %s\n", tenant, e.Kind, strings.Split(e.Actor, ":")[0], text)
		}
	}
	return nil
}

func describe(e audit.Event) (string, error) {
	var d struct {
		Profile, Level, Key, Version string
		Target, State, Reason, Error string
		Secrets                      []struct{ Name, Version string }
	}
	if err := json.Unmarshal(e.Detail, &d); err != nil {
		return "", err
	}
	switch e.Kind {
	case audit.ProfilePut:
		return d.Profile, nil
	case audit.EnvelopeIssued:
		text := "level " + d.Level + " to " + e.Step + ":"
		for _, s := range d.Secrets {
			text += " " + strings.TrimSuffix(s.Name+"@"+s.Version, "@")
		}
		return text, nil
	case audit.EnvelopeRefused, audit.KeyWithheld:
		return d.Error, nil
	case audit.KeyRotated:
		return d.Key + "@" + d.Version, nil
	}
	return fmt.Sprintf("%s, %s: %s", d.Target, d.State, d.Reason), nil
}
