"""Hold a fleet file that runs, with every key explained: what `fleetcast simulate --example` prints."""

EXAMPLE = """\
# A fleet and a rollout, for `fleetcast simulate fleet.toml`. Keys that are left out have the values that their comments name.

nodes = 10000                  # in all; --nodes says otherwise
days_max = 60                  # the simulation ends here at the latest
start = 2026-01-05T08:00:00Z   # when the rollout begins: hours and days of the week matter

[release]                      # its sizes, or `directory` and `name` of a release that is published
full_bytes = 8000000           # encoded, as a node without its parent fetches it
delta_bytes = 2400000          # as a node that serves the parent fetches it; left out: there are no deltas
block_bytes = 122880           # size of a block before it is encoded
activate_seconds = 20          # to load it, run its golden inputs and switch

[rollout]                      # as `fleetcast rollout start` takes them
stages = "1,10,50,100"
soak_seconds = 7200
receipts_min = 0.9
failures_max = 0.05
silent_seconds = 300           # shorter than a report (300 s) and a half: nodes that sleep do not hold up a stage
retries = 1
retry_seconds = 600
fetch = "00:00-24:00"          # when nodes may fetch, in their own zone
activate = "20:00-06:00"       # when nodes that serve may switch
deadline = "45d"               # from the start

[links.lte-m-roaming]          # a link of your own: `like` one of lte-m, nb-iot, satellite, wifi, ethernet
like = "lte-m"
rate_kbit_s = 200
loss = 0.01                    # share of packets
price_mb = 0.4                 # for 1,000,000 bytes, in any currency

[[groups]]
name = "cameras"
share = 45                     # percent of the nodes; or `count` in every group
link = "wifi"
on = "Mon-Sat 06:00-21:30"     # always, times of the week, or a duty cycle such as '10m every 6h'
on_shift_minutes = 30          # each node's times are moved by up to this
zone = "Europe/Berlin"
labels = { site = "shops" }
serves = "parent"              # parent, other (another release), nothing, or release (it has the new one)

[[groups]]
name = "gateways"
share = 30
link = "lte-m-roaming"
budget_bytes_day = 1000000     # as `bytes_day_max` in node.toml
hours = "22:00-06:00"
labels = { site = "plants" }

[[groups]]
name = "meters"
share = 20
link = "nb-iot"
on = "30m every 6h"
fails = 0.005                  # share of the nodes on which the release fails
mends = 0.5                    # chance that the next attempt of such a node succeeds

[[groups]]
name = "buoys"
share = 5
link = "satellite"
serves = "other"               # their release is not the delta's parent
full_download = true           # and they may fetch whole blocks all the same
"""
