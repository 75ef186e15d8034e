// What an MQTT.js client does when it is told so by a command, the same in Node.js and in a web page.
//
// A command is {call, operation, connection, ...} and is answered by {event: 'answer', call, error?, ...};
// messages and the broker's DISCONNECT come in between as events of their own. The host brings what differs:
// `mqtt` (the library), `say` (takes an event), `bytes` (of base64) and `transport` (options of a transport).
'use strict'

function mqttjsHandler ({ mqtt, say, bytes, transport }) {
  const connections = new Map()

  function plainProperties (properties = {}) {
    const plain = { ...properties }
    if (plain.correlationData) plain.correlationData = plain.correlationData.toString('base64')
    if (plain.userProperties) plain.userProperties = { ...plain.userProperties }
    return plain
  }

  function packetProperties (properties) {
    const made = { ...properties }
    if (made.correlationData) made.correlationData = bytes(made.correlationData)
    // On the wire this is a byte; MQTT.js wants a truth value.
    if ('payloadFormatIndicator' in made) made.payloadFormatIndicator = Boolean(made.payloadFormatIndicator)
    return made
  }

  const operations = {
    connect (command, answer) {
      const v5 = command.version === 5
      // What the host found out about the transport by the time of CONNACK.
      const found = {}
      const options = {
        host: command.host,
        port: command.port,
        protocol: { tcp: 'mqtt', tls: 'mqtts', ws: 'ws', wss: 'wss' }[command.transport.protocol],
        clientId: command.clientId,
        protocolVersion: command.version,
        protocolId: command.version === 3 ? 'MQIsdp' : 'MQTT',
        clean: command.clean,
        keepalive: command.keepAliveSeconds,
        reconnectPeriod: 0,
        connectTimeout: 15000
      }
      if (command.transport.protocol.startsWith('ws')) options.path = command.transport.path
      Object.assign(options, transport(command.transport, found))
      if (v5) options.properties = { sessionExpiryInterval: command.expirySeconds }
      if (command.topicAliases > 0) {
        options.properties.topicAliasMaximum = command.topicAliases
        options.autoAssignTopicAlias = true
      }
      if (command.will) {
        const will = command.will
        options.will = { topic: will.topic, payload: bytes(will.payload), qos: will.qos, retain: will.retain }
        if (v5) options.will.properties = packetProperties(will.properties)
      }
      const client = mqtt.connect(options)
      connections.set(command.connection, client)
      let answered = false
      const once = (result) => {
        if (!answered) answer(result)
        answered = true
      }
      client.on('connect', (packet) => once({ sessionPresent: packet.sessionPresent, transport: found }))
      client.on('error', (error) => once({ error: String(error) }))
      client.on('close', () => once({ error: 'closed before CONNACK' }))
      client.on('disconnect', (packet) => say({
        event: 'disconnect', connection: command.connection, reasonCode: packet.reasonCode
      }))
      client.on('message', (topic, payload, packet) => say({
        event: 'message',
        connection: command.connection,
        topic,
        payload: payload.toString('base64'),
        qos: packet.qos,
        retain: packet.retain,
        properties: plainProperties(packet.properties)
      }))
    },

    subscribe (command, answer) {
      const filters = Object.fromEntries(command.filters.map(([filter, qos]) => [filter, { qos }]))
      connections.get(command.connection).subscribe(filters, (error, _granted, packet) => {
        answer(error ? { error: String(error) } : { granted: Array.from(packet.granted) })
      })
    },

    publish (command, answer) {
      const options = { qos: command.qos, retain: command.retain }
      if (Object.keys(command.properties).length > 0) options.properties = packetProperties(command.properties)
      connections.get(command.connection).publish(command.topic, bytes(command.payload), options, (error) => {
        answer(error ? { error: String(error) } : {})
      })
    },

    end (command, answer) {
      connections.get(command.connection).end(false, {}, () => answer({}))
    },

    kill (command, answer) {
      const client = connections.get(command.connection)
      client.stream.destroy()
      client.end(true, {}, () => answer({}))
    }
  }

  return function handle (command) {
    const answer = (result) => say({ event: 'answer', call: command.call, ...result })
    try {
      operations[command.operation](command, answer)
    } catch (error) {
      answer({ error: String(error) })
    }
  }
}

// In a page the function is a global one.
if (typeof module !== 'undefined') module.exports = { mqttjsHandler }
