const { load, folder, seconds, report } = require('./common')
const Corestore = load('corestore')

const CORES = 10000
const BATCH = 100
const TIMES = 20

async function fill (path) {
  const store = new Corestore(path)
  await store.ready()
  for (let first = 0; first < CORES; first += BATCH) {
    const cores = []
    for (let n = first; n < first + BATCH; n++) cores.push(store.get({ name: `core ${n}` }))
    await Promise.all(cores.map((core, i) => core.append(Buffer.from(`block of core ${first + i}`))))
    await Promise.all(cores.map((core) => core.close()))
  }
  await store.close()
}

async function openAndRead (path, number) {
  const started = seconds()
  const store = new Corestore(path)
  const core = store.get({ name: `core ${number}` })
  const block = await core.get(0)
  const taken = seconds() - started
  if (block.toString() !== `block of core ${number}`) throw new Error('another block')
  await store.close()
  return taken
}

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1]

async function main () {
  const path = folder + '/store'
  await fill(path)
  const taken = []
  for (let n = 0; n < TIMES; n++) taken.push(await openAndRead(path, (n * CORES) / TIMES))
  report('open a store of 10,000 cores, read one', median(taken) * 1e3, 'ms')

  const store = new Corestore(path)
  await store.ready()
  let started = seconds()
  let count = 0
  for await (const key of store.list()) if (key) count++
  if (count !== CORES) throw new Error(`${count} cores`)
  report('list 10,000 cores', (seconds() - started) * 1e3, 'ms')
  started = seconds()
  for (let n = 0; n < TIMES; n++) {
    const core = store.get({ name: `core ${(n * CORES) / TIMES}` })
    await core.get(0)
  }
  report('open a core of 10,000, read a block', ((seconds() - started) / TIMES) * 1e6, 'us')
  await store.close()
}

main()
