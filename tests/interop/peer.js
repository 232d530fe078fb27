// A reference peer, told what to do by JSON lines on stdin, answering by JSON lines on stdout.
//
//   {"id": 1, "do": "core", "name": "log"}  ->  {"id": 1, "result": {...}}  or  {"id": 1, "error": "..."}
//
// Block bytes travel as hexadecimal text, keys too. Requests run side by side, each is answered when
// it is done; `quit`, or the end of stdin, ends the process. Nothing but answers goes to stdout.

const net = require('net')
const path = require('path')
const crypto = require('crypto')
const readline = require('readline')
const { createRequire } = require('module')

// The packages lie in the folder that the environment names: there is more than one generation.
const load = createRequire(path.join(process.env.PEER_NODE_MODULES, 'x.js'))
const Corestore = load('corestore')
const Hypercore = load('hypercore')
const Hyperdrive = load('hyperdrive')
const { keyPair } = load('hypercore-crypto')
const NoiseSecretStream = load('@hyperswarm/secret-stream')
const Protomux = load('protomux')
const multisig = load('hypercore/lib/multisig.js')
const c = load('compact-encoding')

let store = null
const cores = []
const shared = []
const drives = []
const sockets = new Map() // to their encrypted streams
let server = null

const generation = parseInt(load('hypercore/package.json').version, 10)

const hex = (buffer) => (buffer ? buffer.toString('hex') : null)
const bytes = (text) => Buffer.from(text, 'hex')

// -- what happens with a stream, by the "mode" of dial and listen ---------------------------------

const modes = {
  // Everything the store has.
  replicate(stream) {
    store.replicate(stream)
  },

  // Only the first core.
  core(stream) {
    cores[0].replicate(stream)
  },

  // Encrypted messages come back as they are.
  echo(stream) {
    stream.on('data', (data) => stream.write(data))
  },

  // A channel "test/echo", which sends back what it gets (type 0) and closes when told (type 1).
  mux(stream) {
    const mux = new Protomux(stream)
    mux.pair({ protocol: 'test/echo' }, (id) => {
      const channel = mux.createChannel({ protocol: 'test/echo', id, handshake: c.string })
      const echo = channel.addMessage({ encoding: c.raw, onmessage: (body) => echo.send(body) })
      channel.addMessage({ encoding: c.raw, onmessage: () => channel.close() })
      channel.open('echo')
    })
  }
}

function attach(socket, initiator, mode) {
  socket.setNoDelay(true)
  const stream = new NoiseSecretStream(initiator, socket)
  sockets.set(socket, stream)
  stream.on('error', (error) => console.error(`stream: ${error.message}`))
  stream.on('close', () => sockets.delete(socket))
  modes[mode || 'replicate'](stream)
  for (const core of shared) core.replicate(stream)
  return stream
}

// -- what can be asked ----------------------------------------------------------------------------

// Hypercore 10 has no such function, and its treeHash() reads what is stored.
const storedTreeHash = Hypercore.treeHashFromStorage || ((core) => core.treeHash())

// How a core is told its encryption key.
function encrypted(key) {
  if (!key) return {}
  return generation === 10 ? { encryptionKey: bytes(key) } : { encryption: { key: bytes(key) } }
}

async function describe(handle) {
  const core = cores[handle]
  return {
    core: handle,
    key: hex(core.key),
    discoveryKey: hex(core.discoveryKey),
    writable: core.writable,
    fork: core.fork,
    length: core.length,
    byteLength: core.byteLength,
    contiguousLength: core.contiguousLength,
    peers: core.peers.length,
    // core.treeHash() would fetch the last block.
    treeHash: hex(core.length ? await storedTreeHash(core) : null)
  }
}

// `size` bytes that differ from path to path and from place to place.
function made(path, size) {
  const pieces = []
  for (let i = 0; i * 1024 < size; i++) {
    const digest = crypto.createHash('sha256').update(`${path}-${i}`).digest()
    pieces.push(Buffer.alloc(Math.min(1024, size - i * 1024), digest))
  }
  return Buffer.concat(pieces)
}

// Each size a piece, and so a block, of its own.
function streamed(drive, path, sizes, options) {
  const stream = drive.createWriteStream(path, options)
  const whole = made(path, sizes.reduce((sum, size) => sum + size, 0))
  let at = 0
  for (const size of sizes) stream.write(whole.subarray(at, (at += size)))
  stream.end()
  return new Promise((resolve, reject) => {
    stream.on('error', reject)
    stream.on('close', resolve)
  })
}

// Not core.update(): asked before a peer is there, it answers that nothing is new.
function grown(core, length) {
  return new Promise((resolve) => {
    const check = () => {
      if (core.length < length) return
      core.off('append', check)
      resolve()
    }
    core.on('append', check)
    check()
  })
}

const actions = {
  async store({ folder }) {
    store = new Corestore(folder)
    await store.ready()
  },

  async core({ name, key, encryption }) {
    const core = store.get({ ...(key ? { key: bytes(key) } : { name }), ...encrypted(encryption) })
    await core.ready()
    return describe(cores.push(core) - 1)
  },

  // A core outside of the store, of another kind: compat, or with a manifest of this version.
  async hypercore({ folder, seed, version, compat, encryption }) {
    const pair = keyPair(bytes(seed))
    const manifest = compat ? undefined : { version, signers: [{ publicKey: pair.publicKey }] }
    const options = { keyPair: pair, compat, manifest, ...encrypted(encryption) }
    const core = new Hypercore(folder, options)
    await core.ready()
    return describe(cores.push(core) - 1)
  },

  // A core that several sign. With `signer` it is the draft of one of them, which nobody is shown.
  async signed({ folder, seeds, signer, quorum, version, allowPatch }) {
    const pairs = seeds.map((seed) => keyPair(bytes(seed)))
    const signers = pairs.map(({ publicKey }) => ({ publicKey }))
    const manifest = { version, quorum, allowPatch, signers }
    const core = new Hypercore(folder, { manifest, keyPair: pairs[signer] || null })
    await core.ready()
    return describe(cores.push(core) - 1)
  },

  // What a signer has signed last, as a part of the signature of the log up to `length`.
  async part({ core, signer, length }) {
    const draft = cores[core].core
    const from = generation === 10 ? draft.tree : cores[core]
    const part = await multisig.partialSignature(from, signer, length)
    const node = ({ index, size, hash }) => ({ index, size, hash: hex(hash) })
    return { ...part, signature: hex(part.signature), nodes: (part.nodes || []).map(node) }
  },

  // Blocks with the parts of a quorum; with `truncate` that many are left, on fork `fork`.
  async commit({ core, blocks, parts, truncate, fork }) {
    const node = ({ index, size, hash }) => ({ index, size, hash: bytes(hash) })
    const inputs = parts.map((part) => ({
      ...part,
      signature: bytes(part.signature),
      nodes: part.nodes.map(node)
    }))
    const v0 = cores[core].manifest.version === 0
    const signature = v0 ? multisig.assemblev0(inputs) : multisig.assemble(inputs)
    if (blocks) await cores[core].append(blocks.map(bytes), { signature })
    else await cores[core].truncate(truncate, { fork, signature })
    return describe(core)
  },

  // Such a core on all streams, those to come too.
  share({ core }) {
    shared.push(cores[core])
    for (const stream of sockets.values()) cores[core].replicate(stream)
  },

  info: ({ core }) => describe(core),

  async append({ core, blocks }) {
    await cores[core].append(blocks.map(bytes))
    return describe(core)
  },

  // Many blocks that both sides can make: block i is sha256(`${seed}-${i}`), repeated to `size` bytes.
  async appendMany({ core, seed, count, size }) {
    const blocks = []
    for (let i = 0; i < count; i++) {
      const piece = crypto.createHash('sha256').update(`${seed}-${i}`).digest()
      blocks.push(Buffer.alloc(size, piece))
    }
    await cores[core].append(blocks)
    return describe(core)
  },

  get: async ({ core, index, options }) => hex(await cores[core].get(index, options)),
  has: ({ core, start, end }) => cores[core].has(start, end),
  seek: ({ core, offset }) => cores[core].seek(offset),
  clear: ({ core, start, end }) => cores[core].clear(start, end),

  async truncate({ core, length }) {
    await cores[core].truncate(length)
    return describe(core)
  },

  async waitLength({ core, length }) {
    await grown(cores[core], length)
    return describe(core)
  },

  async waitFork({ core, fork, length }) {
    while (cores[core].fork < fork) await new Promise((resolve) => cores[core].once('truncate', resolve))
    await grown(cores[core], length)
    return describe(core)
  },

  async download({ core, start, end, blocks }) {
    await cores[core].download(blocks ? { blocks } : { start: start || 0, end }).done()
    return describe(core)
  },

  // The SHA-256 of all block bytes from start to end, one after another.
  async digest({ core, start, end }) {
    const hash = crypto.createHash('sha256')
    for (let i = start || 0; i < (end === undefined ? cores[core].length : end); i++) {
      hash.update(await cores[core].get(i))
    }
    return hash.digest('hex')
  },

  async close({ core }) {
    await cores[core].close()
  },

  async drive({ name, key, encryption }) {
    const options = encryption ? { encryptionKey: bytes(encryption) } : {}
    const space = name ? store.namespace(name) : store
    const drive = new Hyperdrive(space, key ? bytes(key) : null, options)
    await drive.ready()
    return { drive: drives.push(drive) - 1, key: hex(drive.key), version: drive.version }
  },

  async put({ drive, path, content, options }) {
    await drives[drive].put(path, bytes(content), options)
    return drives[drive].version
  },

  // Many changes: ["put", path, size, options], ["stream", path, sizes, options], ["symlink", path,
  // target], ["del", path]; content is made of its path (see `made`). With `batch` all at once.
  async change({ drive, operations, batch }) {
    const target = batch ? drives[drive].batch() : drives[drive]
    for (const [kind, path, value, options] of operations) {
      if (kind === 'put') await target.put(path, made(path, value), options)
      else if (kind === 'stream') await streamed(target, path, value, options)
      else if (kind === 'symlink') await target.symlink(path, value)
      else await target.del(path)
    }
    if (batch) await target.flush()
    return drives[drive].version
  },

  // Everything in a drive: [path, SHA-256 of the content or null, executable, target of a link].
  async tree({ drive }) {
    const found = []
    for await (const { key, value } of drives[drive].list('/')) {
      const content = value.linkname ? null : await drives[drive].get(key)
      const hash = content && crypto.createHash('sha256').update(content).digest('hex')
      found.push([key, hash, value.executable, value.linkname])
    }
    return found
  },

  truncateDrive: ({ drive, version }) => drives[drive].truncate(version),

  read: async ({ drive, path }) => hex(await drives[drive].get(path)),
  remove: ({ drive, path }) => drives[drive].del(path),

  async waitVersion({ drive, version }) {
    await grown(drives[drive].core, version)
    return drives[drive].version
  },

  async list({ drive, path }) {
    const names = []
    for await (const entry of drives[drive].list(path || '/')) names.push(entry.key)
    return names
  },

  entry: ({ drive, path }) => drives[drive].entry(path),

  // Makes drive `target` equal to `drive`; says how many files that removed there.
  async mirror({ drive, target }) {
    const mirror = drives[drive].mirror(drives[target], { prune: true })
    await mirror.done()
    return mirror.count.remove
  },

  // Both cores, all blocks there are.
  async downloadDrive({ drive }) {
    const blobs = await drives[drive].getBlobs()
    for (const core of [drives[drive].core, blobs.core]) {
      await core.update()
      await core.download({ start: 0, end: core.length }).done()
    }
    return [drives[drive].core.contiguousLength, blobs.core.contiguousLength]
  },

  async contentKey({ drive }) {
    const blobs = await drives[drive].getBlobs()
    return hex(blobs.core.key)
  },

  listen({ initiator, mode }) {
    server = net.createServer({ allowHalfOpen: true }, (socket) => attach(socket, initiator, mode))
    return new Promise((resolve, reject) => {
      server.on('error', reject)
      server.listen(0, '127.0.0.1', () => resolve(server.address().port))
    })
  },

  dial({ port, initiator, mode }) {
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    const stream = attach(socket, initiator, mode)
    return new Promise((resolve, reject) => {
      socket.on('error', reject)
      stream.once('connect', () => resolve(hex(stream.handshakeHash)))
    })
  },

  hangUp() {
    for (const socket of sockets.keys()) socket.destroy()
  },

  versions: () => ({ node: process.version, hypercore: load('hypercore/package.json').version }),

  quit: () => process.exit(0)
}

// -- the conversation -----------------------------------------------------------------------------

function answer(value) {
  process.stdout.write(JSON.stringify(value) + '\n')
}

async function handle(line) {
  const { id, do: action, ...request } = JSON.parse(line)
  try {
    const result = await actions[action](request)
    answer({ id, result: result === undefined ? null : result })
  } catch (error) {
    answer({ id, error: error.stack || String(error) })
  }
}

const lines = readline.createInterface({ input: process.stdin })
lines.on('line', handle)
lines.on('close', () => process.exit(0))
