package identity

// A Bound is a name that a run was bound to.
type Bound struct {
	Step     string   `json:"step,omitempty"`
	Name     string   `json:"name"`
	Ref      string   `json:"ref,omitempty"` // empty: it was a knob
	Version  string   `json:"version,omitempty"`
	From     Origin   `json:"from"`
	Retarget bool     `json:"retarget,omitempty"`
	Commands []string `json:"commands,omitempty"`
	MinLevel Level    `json:"min_level,omitzero"`
	Strict   bool     `json:"strict,omitempty"`
	Inject   *Inject  `json:"inject,omitempty"`
}
