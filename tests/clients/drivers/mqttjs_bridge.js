// Many MQTT.js clients in one process of Node.js, steered by lines of JSON on standard input (see mqttjs.py and
// mqttjs_operations.js). The process ends with its input.
'use strict'

const fs = require('node:fs')
const { createRequire } = require('node:module')
const path = require('node:path')
const readline = require('node:readline')
const { mqttjsHandler } = require('./mqttjs_operations.js')

// The packages live in an untracked place that the test command names.
const modules = process.env.MIDGE_TEST_NODE_MODULES

const handle = mqttjsHandler({
  mqtt: (modules ? createRequire(path.join(modules, 'package.json')) : require)('mqtt'),
  say: (event) => process.stdout.write(JSON.stringify(event) + '\n'),
  bytes: (base64) => Buffer.from(base64, 'base64'),
  transport: (transport) => {
    const options = {}
    for (const [ours, theirs] of [['ca', 'ca'], ['certificate', 'cert'], ['key', 'key']]) {
      if (transport[ours]) options[theirs] = fs.readFileSync(transport[ours])
    }
    return options
  }
})

readline.createInterface({ input: process.stdin })
  .on('line', (line) => handle(JSON.parse(line)))
  .on('close', () => process.exit(0))
