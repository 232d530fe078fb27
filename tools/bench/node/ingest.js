const crypto = require('crypto')
const { load, folder, large, MIB, seconds, report } = require('./common')
const Corestore = load('corestore')
const Hyperdrive = load('hyperdrive')

async function main () {
  const drive = new Hyperdrive(new Corestore(folder + '/store'))
  await drive.ready()

  const made = seconds()
  for (let done = 0; done < large; done += MIB) crypto.randomBytes(MIB)
  const making = seconds() - made
  let started = seconds()
  const stream = drive.createWriteStream('/large')
  for (let done = 0; done < large; done += MIB) {
    const piece = crypto.randomBytes(MIB)
    for (let at = 0; at < MIB; at += 65536) {
      if (!stream.write(piece.subarray(at, at + 65536))) {
        await new Promise((resolve) => stream.once('drain', resolve))
      }
    }
  }
  await new Promise((resolve, reject) => {
    stream.on('close', resolve)
    stream.on('error', reject)
    stream.end()
  })
  report('put one large file', large / (seconds() - started - making) / 1e6, 'MB/s')

  const small = crypto.randomBytes(1024)
  started = seconds()
  const batch = drive.batch()
  for (let i = 0; i < 5000; i++) {
    const data = Buffer.from(small)
    data.writeUInt32BE(i, 0)
    await batch.put(`/small/${i % 50}/${i}`, data)
  }
  await batch.flush()
  report('put 1 KiB files, 5000 a batch', 5000 / (seconds() - started), 'files/s')

  started = seconds()
  for (let i = 0; i < 300; i++) {
    const data = Buffer.from(small)
    data.writeUInt32BE(i, 4)
    await drive.put(`/single/${i}`, data)
  }
  report('put 1 KiB files, a version each', 300 / (seconds() - started), 'files/s')
  await drive.close()
}

main()
