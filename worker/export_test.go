package worker

// WithHistory returns a Config whose turns read no more than so many bytes of
// results when they begin.
func (c Config) WithHistory(bytes int) Config {
	c.history = bytes
	return c
}

// WithPage returns a Config whose turns read so many checkpoints at a time.
func (c Config) WithPage(steps int) Config {
	c.page = steps
	return c
}
