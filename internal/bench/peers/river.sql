-- What a team needs beside River's tables to do a run's steps as jobs.
CREATE TABLE IF NOT EXISTS app_run (
    id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    steps  int NOT NULL,
    "left" int NOT NULL, -- of the steps that are done at once
    output jsonb
);

CREATE TABLE IF NOT EXISTS app_step (
    run    bigint NOT NULL REFERENCES app_run,
    seq    int NOT NULL,
    output jsonb NOT NULL,
    PRIMARY KEY (run, seq)
);
