"""What runs on one byte stream between two peers: handshake, encryption, channels.

```
wire.noise          who is there: three messages, two keys, one hash
wire.secretstream   frames; the handshake, then encrypted messages
wire.mux            many channels over one stream of messages
```

All three do no IO: they are fed what arrived and say what to write. `corestore.link` drives them.
The bytes are described in corestore/PROTOCOL.md.
"""
