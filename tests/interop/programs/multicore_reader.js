// Prints what is appended to the cores that block 0 of the main core names.
const { load, options, swarm } = require('./peers')
const Corestore = load('corestore')

async function main () {
  const store = new Corestore(options.storage)
  const core = store.get({ key: options.key, valueEncoding: 'json' })
  await core.ready()
  const done = core.findingPeers()
  swarm((stream) => store.replicate(stream), done)
  await core.update()
  if (core.length === 0) {
    console.error('Could not connect to the writer peer')
    process.exit(4)
  }
  const { otherKeys } = await core.get(0)
  for (const key of otherKeys) {
    const core = store.get({ key: Buffer.from(key, 'hex') })
    core.on('append', () => {
      const seq = core.length - 1
      core.get(seq).then((block) => {
        console.log(`Block ${seq} in Core ${key}: ${block.toString().trimEnd()}`)
      })
    })
  }
}

main()
