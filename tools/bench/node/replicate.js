// Without a third argument: start the writer as a process of its own, then be the reader. With
// `serve`: the writer; with `fetch PORT KEY`: a reader that prints its rate.
const fs = require('fs')
const net = require('net')
const crypto = require('crypto')
const { spawn } = require('child_process')
const readline = require('readline')
const { load, folder, large, MIB, seconds, report } = require('./common')
const Corestore = load('corestore')
const NoiseStream = load('@hyperswarm/secret-stream')

const NAME = 'replicate 64 KiB blocks'

async function serve () {
  const store = new Corestore(folder + '/writer')
  const core = store.get({ name: 'bench' })
  await core.ready()
  for (let done = 0; done < large; done += MIB) {
    const blocks = []
    for (let i = 0; i < 16; i++) blocks.push(crypto.randomBytes(65536))
    await core.append(blocks)
  }
  const server = net.createServer((socket) => {
    const stream = new NoiseStream(false, socket)
    stream.on('error', () => {})
    store.replicate(stream)
  })
  server.listen(0, '127.0.0.1', () => {
    console.log(server.address().port + ' ' + core.key.toString('hex'))
  })
  process.stdin.on('end', () => process.exit(0)).resume()
}

async function fetch (port, key) {
  const store = new Corestore(folder + '/reader')
  const core = store.get({ key: Buffer.from(key, 'hex') })
  await core.ready()
  const started = seconds()
  const stream = new NoiseStream(true, net.connect(port, '127.0.0.1'))
  stream.on('error', () => {})
  store.replicate(stream)
  const done = core.findingPeers()
  stream.on('connect', () => setTimeout(done, 500))
  while (core.length === 0) await core.update({ wait: true })
  await core.download({ start: 0, end: core.length }).done()
  return core.byteLength / (seconds() - started) / 1e6
}

function peakMemory (pid) {
  return Number(/VmHWM:\s*(\d+)/.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024
}

async function main () {
  if (process.argv[4] === 'serve') return serve()
  if (process.argv[4] === 'fetch') {
    console.log(await fetch(Number(process.argv[5]), process.argv[6]))
    process.exit(0)
  }
  const writer = spawn(process.execPath, [__filename, folder, String(large / MIB), 'serve'],
    { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines = readline.createInterface({ input: writer.stdout })
  lines.once('line', async (line) => {
    const [port, key] = line.split(' ')
    const rate = await fetch(Number(port), key)
    for (const who of ['two processes', 'Python to Node', 'Node to Python']) {
      report(`${NAME}, ${who}`, rate, 'MB/s')
    }
    report(`${NAME}: peak memory of the reader`, peakMemory('self'), 'MiB')
    report(`${NAME}: peak memory of the writer`, peakMemory(writer.pid), 'MiB')
    writer.stdin.end()
    writer.on('exit', () => process.exit(0))
  })
}

main()
