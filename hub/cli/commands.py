"""All commands under one name: what a shell completes and `--help` lists."""

import click

from fleetcast.cli.lazy_group import LazyGroup, Verb
from fleetcast.cli.version_option import version_option
from hub.cli.completed_names import complete_names
from hub.cli.remote import hub_options, remember

# The help is each command's own first sentence: a command is imported only when it is called.
VERBS = {
    "access-list": Verb("access_list:access_list", "Print the access list of the fleet's broker, for mosquitto."),
    "apply": Verb("apply:apply", "Make the fleet what a blueprint says."),
    "blueprint": Verb("blueprint:blueprint", "Write a blueprint of what is now, to begin with one."),
    "bytes": Verb("bytes_paid:bytes_paid", "Sum up the bytes that nodes have fetched on a day."),
    "ca": Verb("ca:ca", "Issue certificates to brokers, hubs and consumers."),
    "check": Verb("check:check", "Activate a release as each profile's nodes would."),
    "completion": Verb("completion:completion", "Print a completion script for a shell."),
    "console": Verb("console:console", "Print where the console is, and a link that signs in once."),
    "deploy": Verb("deploy:deploy", "Say which nodes run which release, by selector and priority."),
    "diff": Verb("diff:diff", "Show what `fleetcast apply` would change, and what that costs."),
    "drift": Verb("drift:drift", "Show what drifts, where, since when, and how far."),
    "enroll": Verb("enroll:enroll", "Admit devices to the fleet, list them, and revoke them."),
    "export": Verb("export:export", "Write a release to a file for `fleetcast-node import`."),
    "export-windows": Verb("export_windows:export_windows", "Write merged windows to a Parquet file, one row a bin."),
    "history": Verb("history:history", "Show the changes of the fleet, each with its actor."),
    "hooks": Verb("hooks:hooks", "List webhooks and hooks on drift, with their deliveries."),
    "hub": Verb("hub:serve", "Run the hub until SIGTERM or SIGINT."),
    "hubs": Verb("hubs:hubs", "List the processes of the hub, and say which one leads."),
    "init": Verb("init:init", "Create a fleet."),
    "keys": Verb("keys:keys", "Show, rotate and revoke the fleet's keys."),
    "ledger": Verb("plan:ledger", "Show the bytes that a release has cost each node."),
    "models": Verb("models:models", "List the models."),
    "nodes": Verb("nodes:nodes", "List the nodes, set labels and settings, forget or replace one."),
    "plan": Verb("plan:plan", "Compute what a rollout will cost, before it sends anything."),
    "publish": Verb("publish:publish", "Build, sign and store a release."),
    "quickstart": Verb("quickstart:quickstart", "Make a fleet on this machine, and run it until Ctrl-C."),
    "releases": Verb("releases:releases", "List the releases of every model, or of one."),
    "renew": Verb("renew:renew", "Sign delegations and releases again before they expire."),
    "rollout": Verb("rollout:rollout", "Choose which nodes run which release."),
    "simulate": Verb("command:simulate", "Simulate a rollout over a fleet, before it begins.", package="simulation"),
    "status": Verb("status:status", "Show the fleet at a glance."),
    "tokens": Verb("tokens:tokens", "Make, list and revoke tokens for the hub's API."),
    "watch": Verb("watch:watch", "Follow events: receipts, rollouts, drift, alerts, refusals."),
}


@click.group(
    cls=LazyGroup, package="hub.cli", verbs=VERBS, complete=complete_names, context_settings={"help_option_names": ["-h", "--help"]}
)
@version_option
@hub_options
@click.pass_context
def command(context: click.Context, hub_url: str | None, token_file: str | None, ca_file: str | None) -> None:
    """Cast models to a fleet of devices.

    Watch what they serve, and learn when their data drifts.

    \b
    Everything on this machine, to try it:
      fleetcast quickstart ./plant

    \b
    A fleet in five commands:
      fleetcast init ./plant --fleet plant --model delay
      fleetcast hub ./plant &
      export FLEETCAST_DIR=./plant
      fleetcast publish model.onnx --name delay --version 1.0.0 \\
        --reference ref.parquet
      fleetcast rollout start delay@1.0.0 --stages 10,50,100 --wait

    \b
    From another machine, with a token of `fleetcast tokens make`:
      export FLEETCAST_HUB=https://hub.example:8443
      export FLEETCAST_TOKEN_FILE=~/.config/fleetcast-token
      fleetcast rollout status
    """
    remember(context, hub_url, token_file, ca_file)
