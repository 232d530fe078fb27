const crypto = require('crypto')
const { load, folder, large, MIB, seconds, report } = require('./common')
const Corestore = load('corestore')

async function main () {
  const store = new Corestore(folder + '/store')
  await store.ready()

  let core = store.get({ name: 'large' })
  await core.ready()
  const blocks = []
  for (let i = 0; i < 16; i++) blocks.push(crypto.randomBytes(65536))
  let started = seconds()
  for (let done = 0; done < large; done += MIB) await core.append(blocks)
  report('append 64 KiB blocks, 1 MiB a batch', large / (seconds() - started) / 1e6, 'MB/s')

  core = store.get({ name: 'batched' })
  await core.ready()
  const small = []
  for (let i = 0; i < 100; i++) small.push(crypto.randomBytes(200))
  started = seconds()
  for (let i = 0; i < 200; i++) await core.append(small)
  report('append 200 B blocks, 100 a batch', 20000 / (seconds() - started), 'blocks/s')

  core = store.get({ name: 'single' })
  await core.ready()
  started = seconds()
  for (let i = 0; i < 3000; i++) await core.append(small[0])
  report('append 200 B blocks, singly', 3000 / (seconds() - started), 'blocks/s')
  await store.close()
}

main()
