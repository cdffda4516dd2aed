// Package cedar reads the policies of profiles, identity.Profile.Policy: who may have
// which key, for which command. They are written in the Cedar language:
// https://docs.cedarpolicy.com/policies/syntax-policy.html.
//
// # What is asked
//
// One question for each key that a step would get and each command that may have it, and,
// for the function of a guest step, one without a command. It is about the entities and
// attributes that [Schema] has:
//
//	principal  Step::"publish"       the step, with tenant, project, environment, workflow and version
//	action     Action::"issue"       the only one
//	resource   Key::"DEPLOY_TOKEN"   the key, with store, path, version, profile and knob
//	context                          command, path and level
//
// All of them are there in each question, "" for what a run or key has not. context.command
// is the base name of the command, and "" for the function of a step; context.path is the
// absolute path, if the profile names one. context.level is what the key would have, "L0", "L1-dev" or what
// else identity.Level has: "L2" where the sandbox is attested, and "L3" of a key with Inject.
//
// # What is decided
//
// A policy denies what none of its statements permits, and a forbid is stronger than any
// permit. One that only forbids begins with
//
//	permit (principal, action, resource);
//
// Of several profiles whose Scope a step is in, the policies of all have to permit: a
// narrower one cannot widen. So have those that applied when the run was enqueued: what was
// loosened since gives nothing more. What cannot be evaluated is denied, also where the
// language would pass over the statement: a forbid that fails forbids.
//
// What is denied to a command is taken from that command; what is denied to the function of
// a guest step, or to all commands of a tool step, the step does not get. Without any
// policy, the keys of profiles alone decide. resource.profile is empty for a key that the run says
// itself: forbid what nobody may have by resource.path.
//
// # What is refused
//
// [Parse] refuses what is not within Schema: an attribute, an entity type or an action that is
// not there, and a comparison of different types. So a misspelt forbid does not become one that
// is never met. Give statements an @id, by which refusals and audit events name them.
package cedar
