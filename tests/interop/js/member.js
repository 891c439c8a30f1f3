// A member of a consumer group: member.js BOOTSTRAP GROUP TOPIC, with kafkajs. SIGTERM makes it leave.
// What it prints is described in ../python/member.py.
'use strict'
const fs = require('node:fs')
const { Kafka, logLevel } = require('kafkajs')

const [bootstrap, groupId, topic] = process.argv.slice(2)
const kafka = new Kafka({
  clientId: 'interop-js-member',
  brokers: bootstrap.split(','),
  logLevel: logLevel.NOTHING,
  retry: { retries: 50, initialRetryTime: 50, maxRetryTime: 500 },
})
const consumer = kafka.consumer({ groupId, sessionTimeout: 6000, heartbeatInterval: 500, rebalanceTimeout: 10000 })

const say = (kind, ...numbers) => {
  const micros = Math.round((performance.timeOrigin + performance.now()) * 1000)
  fs.writeSync(1, [kind, micros, ...numbers].join(' ') + '\n')
}

async function main() {
  process.on('SIGTERM', () => consumer.disconnect().then(() => process.exit(0), () => process.exit(1)))
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    partitionsConsumedConcurrently: 3,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
      for (let start = 0; start < batch.messages.length && isRunning() && !isStale(); start += 500) {
        const chunk = batch.messages.slice(start, start + 500)
        const first = Number(chunk[0].offset)
        const next = Number(chunk[chunk.length - 1].offset) + 1
        if (next - first !== chunk.length) throw new Error('a gap in what was read')
        say('R', batch.partition, first, next)
        resolveOffset(chunk[chunk.length - 1].offset)
        await consumer.commitOffsets([{ topic, partition: batch.partition, offset: String(next) }])
        say('C', batch.partition, next)
        await heartbeat()
      }
    },
  })
}

main().catch(error => { console.error(error); process.exit(1) })
