// Package identity says which of a customer's secrets the steps of a run may
// have: by name and reference, never by value.
//
// A [Profile] gives names to a tenant, or to a part of it: each a [Key], which
// refers to a secret in a store (vault://…, file://…), or is a plain setting, a
// knob. What a step asks for, it lists in workflow.StepOptions.Secrets.
//
// # Cascade
//
// Profiles apply from broad to narrow: deployment, tenant, project, environment,
// workflow, step, run. For each name, by itself:
//
//   - The narrowest that sets it wins. Unset hides what is broader, and what is
//     narrower may set it again.
//   - Deny anywhere is final.
//   - Under a Lock a narrower one that sets the name is an error, [ErrLocked], and so are two profiles
//     that name it equally narrowly: [ErrAmbiguous]. Neither is guessed about.
//   - What restricts adds up, also from what is hidden: Commands intersect, the
//     highest MinLevel counts, and Required and Strict stay.
//
// [Resolve] is the whole rule, and asks nobody.
//
// # Where the values are
//
// In stores, which only the broker reads: package identity/broker. Nothing here
// has a method that returns a value, and nothing here is a secret, but knobs are as
// readable as any setting.
package identity
