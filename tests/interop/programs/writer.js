// Everything on stdin becomes a block of a core, which is served.
const { load, options, swarm } = require('./peers')
const Hypercore = load('hypercore')

async function main () {
  const core = new Hypercore(options.storage)
  await core.ready()
  console.log('core key:', core.key.toString('hex'))
  swarm((stream) => core.replicate(stream))
  process.stdin.on('data', (data) => core.append(data))
}

main()
