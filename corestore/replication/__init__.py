"""One core's conversation with its peers, as a machine without IO.

`machine.Replicator` is put together from what fetches (`download`, with `wants`, `pages`,
`sharing`, `seeking` and `updates`), what serves (`upload`), what takes answers (`answers`, `nodes`)
and what finds out about other histories (`checks`, `forks`, `reorg`). They have one `shared.Shared`
and a `peer.Peer` for each peer. `messages` are the ten messages of the wire, `actions` what the
machine tells its driver. Why it is done like this is told in corestore/DESIGN.md.
"""
