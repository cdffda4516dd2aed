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
//     that name it equally narrowly: [ErrAmbiguous], which Put refuses. Neither is guessed about.
//   - What restricts adds up, also from what is hidden: Commands intersect, the
//     highest MinLevel counts, and Required and Strict stay.
//
// [Resolve] is the whole rule, and asks nobody.
//
// # Secrets that are not in the sandbox
//
// A [Key] with an [Inject] is used where the sandbox connects to, and not in it: what its programs have is a
// placeholder, and the broker, where their HTTPS to the hosts of the key ends, puts the value in its place and takes it
// out of the answers. That is level L3, if the broker is kept from the worker. What it costs: the step's
// network has to be closed but for what it needs, and one more hop.
//
// # When it is decided
//
// An enqueue binds a run to the names that its steps list: to what the profiles give
// them then. A required name that nobody sets, or that is revoked, is refused. When a step
// starts, the profiles are asked again, and it gets what both say: less, never more.
// Another version of the same secret is normal; another Ref is not, but for a key with
// Retarget. Package identity/explain shows both sides.
//
// What is in a sandbox stays there until the attempt ends, or it is revoked. A key with Inject, which
// is not, is asked about again for each connection and every five seconds: hosts that it has lost, a policy that denies it
// now and a higher MinLevel count for attempts that go on. What an attempt has lost it does not get
// back as long as it goes on using it with one broker; after a minute without a request, or with another broker, what the profiles
// say then counts. Its value stays in the version that was issued until that is revoked.
//
// # Policies
//
// Profile.Policy is a say about every key that the steps in its scope get, whichever
// profile sets it: for which command, in which environment, at which level. What it is written
// in, and what it is asked, has package identity/cedar. Without a policy the keys of profiles alone
// decide, and their default is to give; a policy's default is to deny. Those of all profiles that
// apply have to permit, so that a narrower one does not widen; and so have those that applied
// when the run was enqueued. The broker asks them at each issue, when everything is known that they
// can be about; of keys with Inject, also later. A policy that cannot be read or evaluated there denies.
//
// # Revocation
//
// [Profiles.Revoke] takes back a key, a version of it, a profile, or what a tenant, a
// workflow, a run or a worker may have. States only go up. A key that was revoked is of use
// again in a new version, by [Profiles.Rotate].
//
// # Where the values are
//
// In stores, which only the broker reads: package identity/broker. Nothing here
// has a method that returns a value, and nothing here is a secret, but knobs are as
// readable as any setting.
package identity
