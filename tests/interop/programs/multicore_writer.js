// Short input goes to core 2, long input to core 3; block 0 of core 1 names the two.
const { load, options, swarm } = require('./peers')
const Corestore = load('corestore')

async function main () {
  const store = new Corestore(options.storage)
  const core1 = store.get({ name: 'core-1', valueEncoding: 'json' })
  const core2 = store.get({ name: 'core-2' })
  const core3 = store.get({ name: 'core-3' })
  await Promise.all([core1.ready(), core2.ready(), core3.ready()])
  console.log('main core key:', core1.key.toString('hex'))
  swarm((stream) => store.replicate(stream))
  if (core1.length === 0) {
    await core1.append({ otherKeys: [core2, core3].map((core) => core.key.toString('hex')) })
  }
  process.stdin.on('data', (data) => {
    if (data.length < 5) {
      console.log('appending short data to core2')
      core2.append(data)
    } else {
      console.log('appending long data to core3')
      core3.append(data)
    }
  })
}

main()
