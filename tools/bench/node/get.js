const crypto = require('crypto')
const { load, folder, large, MIB, seconds, report } = require('./common')
const Corestore = load('corestore')

async function main () {
  const store = new Corestore(folder + '/store')
  await store.ready()
  for (const [label, size, total] of [['64 KiB', 65536, large], ['200 B', 200, 4 * MIB]]) {
    const core = store.get({ name: label })
    await core.ready()
    const count = Math.floor(total / size)
    for (let i = 0; i < count; i += 256) {
      const batch = []
      for (let j = i; j < Math.min(i + 256, count); j++) batch.push(crypto.randomBytes(size))
      await core.append(batch)
    }
    for (let i = 0; i < count; i += 7) await core.get(i)
    const order = []
    for (let i = 0; i < 5000; i++) order.push(crypto.randomInt(count))
    const started = seconds()
    for (const index of order) await core.get(index)
    report(`get cached ${label} blocks, random`, (seconds() - started) / 5000 * 1e6, 'us')
  }
  await store.close()
}

main()
