// Follows a core from its end.
const { load, options, swarm } = require('./peers')
const Hypercore = load('hypercore')

async function main () {
  const core = new Hypercore(options.storage, options.key)
  await core.ready()
  const done = core.findingPeers()
  swarm((stream) => core.replicate(stream), done)
  await core.update()
  if (core.peers.length === 0) {
    console.error('Could not connect to the writer peer')
    process.exit(4)
  }
  let position = core.length
  console.log(`Skipping ${core.length} earlier blocks...`)
  for await (const block of core.createReadStream({ start: core.length, live: true })) {
    console.log(`Block ${position++}: ${block.toString().trimEnd()}`)
  }
}

main()
