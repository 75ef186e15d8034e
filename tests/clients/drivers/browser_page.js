// Many MQTT.js clients in one web page, steered by the server that the page came from (see browser.py and
// mqttjs_operations.js): it is asked for commands again and again, and told what happened in the order in which it did.
'use strict'

const outbox = []
let sending = false

async function say (event) {
  outbox.push(event)
  if (sending) return
  sending = true
  while (outbox.length > 0) {
    const events = outbox.splice(0)
    await fetch('/said', { method: 'POST', body: JSON.stringify(events) })
  }
  sending = false
}

const handle = mqttjsHandler({
  mqtt,
  say,
  bytes: (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)),
  transport: (_transport, found) => ({
    createWebsocket: (url, protocols) => {
      const made = new WebSocket(url, protocols)
      made.addEventListener('open', () => Object.assign(found, { url: made.url, subprotocol: made.protocol }))
      return made
    }
  })
})

addEventListener('error', (event) => say({ event: 'trouble', reason: event.message }))

async function work () {
  await say({ event: 'ready', browser: navigator.userAgent })
  for (;;) {
    const answer = await fetch('/commands')
    for (const command of await answer.json()) handle(command)
  }
}

work()
