// How the Node programs find their packages and say what they measured.
const path = require('path')
const { createRequire } = require('module')

const modules = process.env.HYPERFS_NODE_MODULES
if (!modules) throw new Error('HYPERFS_NODE_MODULES names no folder')
exports.load = createRequire(path.join(modules, 'x.js'))
exports.folder = process.argv[2]
exports.MIB = 1 << 20
exports.large = Number(process.argv[3]) * exports.MIB
exports.seconds = () => Number(process.hrtime.bigint()) / 1e9
exports.report = (name, value, unit) => console.log(JSON.stringify({ name, value, unit }))
