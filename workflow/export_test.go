package workflow

// Lost is what becomes of an attempt whose sandbox was lost.
var Lost = lost
