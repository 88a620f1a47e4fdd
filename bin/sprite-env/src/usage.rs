//! Help texts.

/// Top level.
pub(crate) const ALL: &str = "\
Talks to the runtime of this sprite.

Usage: sprite-env <command>

Commands:
  info           This sprite's name, id, organisation and URL, as JSON
  version        Version of the runtime
  curl           Run curl against the management API: sprite-env curl [args] <path>
  services       Programs that the runtime keeps running
  checkpoints    Saved states of this sprite's disk

Options:
  -h, --help     Show this, or the help of a command

Exit status: 0 success, 1 the runtime reported an error, 2 wrong usage.
";

/// `services`.
pub(crate) const SERVICES: &str = "\
Programs that the runtime keeps running.

Usage: sprite-env services <command>

Commands:
  list                    All services
  get <name>              One service
  create <name> --cmd <program> [options]
                          Create or replace a service and start it
  start <name>            Start            [--duration <d>]
  restart <name>          Stop and start   [--duration <d>]
  stop <name>             Stop
  signal <name> <SIGNAL>  Send a signal
  delete <name>           Stop and remove

Options of create:
  --cmd <program>         The program alone; arguments go into --args
  --args <a,b>            Arguments, separated by commas
  --env <K=v,K2=v2>       Variables, separated by commas
  --dir <path>            Working directory
  --needs <a,b>           Services that must run first
  --http-port <n>         Port that serves the sprite's URL
  --duration <d>          How long to show output after the start, such as 5s
  --no-stream             Return at once
";

/// `checkpoints`.
pub(crate) const CHECKPOINTS: &str = "\
Saved states of this sprite's disk.

Usage: sprite-env checkpoints <command>

Commands:
  list                    All checkpoints  [--history <version>] [--include-auto]
  get <id>                One checkpoint
  create                  Save the state   [--comment <text>]
  restore <id>            Go back to a state; ends every process of the sprite
";

/// `curl`.
pub(crate) const CURL: &str = "\
Runs curl against the management API.

Usage: sprite-env curl [curl arguments] <path> [curl arguments]

Example:
  sprite-env curl -X PUT /v1/tasks/build -d '{\"expire\":\"5m\"}'

The exit status is curl's.
";
