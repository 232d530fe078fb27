// What the four programs have in common: `--storage DIR`, `--listen PORT`, `--peer PORT`, a key.

const fs = require('fs')
const net = require('net')
const path = require('path')
const { createRequire } = require('module')

const load = createRequire(path.join(process.env.PEER_NODE_MODULES, 'x.js'))
const NoiseSecretStream = load('@hyperswarm/secret-stream')

exports.load = load
exports.options = { key: null, storage: null, listen: null, peer: null }
const words = process.argv.slice(2)
while (words.length) {
  const word = words.shift()
  if (word.startsWith('--')) exports.options[word.slice(2)] = words.shift()
  else exports.options.key = Buffer.from(word, 'hex')
}

// Calls `attach` with an encrypted stream for each peer; `flushed` once whoever is dialled is there.
exports.swarm = function (attach, flushed) {
  const { listen, peer } = exports.options
  const connected = (socket, initiator) => {
    const stream = new NoiseSecretStream(initiator, socket)
    stream.on('error', () => {})
    attach(stream)
    return stream
  }
  if (listen !== null) {
    const server = net.createServer((socket) => connected(socket, false))
    server.listen(Number(listen), '127.0.0.1', () => {
      console.log(`listening on 127.0.0.1:${server.address().port}`)
    })
    server.once('connection', () => setImmediate(() => flushed && flushed()))
  }
  if (peer !== null) {
    const socket = net.connect(Number(peer), '127.0.0.1')
    socket.on('error', () => flushed && flushed())
    connected(socket, true).once('connect', () => flushed && flushed())
  }
}
