package envelope

// Opened is what was in an envelope.
type Opened struct {
	Head       Head
	Items      []Item
	RenewalKey []byte
}

// Wipe overwrites what is secret in it.
func (o *Opened) Wipe() {
	for i := range o.Items {
		clear(o.Items[i].Value)
	}
	clear(o.RenewalKey)
}

// String keeps the content out of what prints it.
func (Opened) String() string { return "[envelope]" }

// GoString does the same.
func (Opened) GoString() string { return "[envelope]" }

// Item's value is kept out of what prints it.
func (i Item) String() string { return i.Name }

// GoString does the same.
func (i Item) GoString() string { return i.Name }
