// kafkajs against a running cluster: interop.js BOOTSTRAP RECORDS TOPIC_PREFIX.
// Prints `pass CLIENT: CHECK` or `FAIL CLIENT: CHECK: WHY` a line. Its consumer always joins a
// consumer group, so what it produces is read back by another client (the runner does that).
'use strict'
const fs = require('node:fs')
const assert = require('node:assert/strict')
const { Kafka, CompressionTypes, ConfigResourceTypes, logLevel } = require('kafkajs')

const CLIENT = 'kafkajs'
const PARTITIONS = 6
const [bootstrap, path, prefix] = process.argv.slice(2)
const records = fs.readFileSync(path, 'utf8').trimEnd().split('\n').map(line => JSON.parse(line))
const kafka = new Kafka({
  clientId: 'interop-js',
  brokers: bootstrap.split(','),
  logLevel: logLevel.NOTHING,
  retry: { retries: 20, initialRetryTime: 50, maxRetryTime: 1000 },
})
let failures = 0

async function check(name, work) {
  try {
    await work()
    console.log(`pass ${CLIENT}: ${name}`)
  } catch (error) {
    failures += 1
    console.log(`FAIL ${CLIENT}: ${name}: ${String(error.message).split('\n').join(' ')}`)
  }
}

async function until(condition, what, deadlineMs = 30_000) {
  const end = Date.now() + deadlineMs
  while (!(await condition().catch(() => false))) {
    if (Date.now() > end) throw new Error(`not within ${deadlineMs} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

async function hasLeaders(admin, topic, count) {
  await until(async () => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    const found = topics[0].partitions
    return found.length === count && found.every(p => p.leader >= 0 && p.replicas.length === 3)
  }, `${topic} has ${count} partitions with leaders`)
}

async function produce(topic, compression) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, allowAutoTopicCreation: false })
  await producer.connect()
  const next = Array(PARTITIONS).fill(0)
  try {
    for (let start = 0; start < records.length; start += 300) {
      const chunk = records.slice(start, start + 300)
      const answers = await producer.send({
        topic,
        acks: -1,
        compression,
        messages: chunk.map(r => ({
          key: r.key, value: r.value, partition: r.partition,
          headers: Object.fromEntries(r.headers), timestamp: String(r.timestamp),
        })),
      })
      for (const answer of answers) {
        assert.equal(answer.errorCode, 0)
        assert.equal(Number(answer.baseOffset), next[answer.partition], `base offset in partition ${answer.partition}`)
        next[answer.partition] += chunk.filter(r => r.partition === answer.partition).length
      }
    }
  } finally {
    await producer.disconnect()
  }
}

const inPartition = p => records.filter(r => r.partition === p)

async function main() {
  const admin = kafka.admin()
  await admin.connect()
  for (const [name, type] of [['none', CompressionTypes.None], ['gzip', CompressionTypes.GZIP]]) {
    await check(`create a topic and produce (idempotent, ${name}) ${records.length} records`, async () => {
      const topic = `${prefix}-${name}`
      await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS, replicationFactor: 3 }] })
      await hasLeaders(admin, topic, PARTITIONS)
      await produce(topic, type)
    })
  }
  const topic = `${prefix}-admin`
  await check('create with configs, produce', async () => {
    await admin.createTopics({
      topics: [{
        topic, numPartitions: PARTITIONS, replicationFactor: 3,
        configEntries: [{ name: 'retention.ms', value: '7200000' }],
      }],
    })
    await hasLeaders(admin, topic, PARTITIONS)
    await produce(topic, CompressionTypes.None)
  })
  await check('ListOffsets: high, low and by timestamp', async () => {
    for (const { partition, high, low } of await admin.fetchTopicOffsets(topic)) {
      assert.equal(Number(low), 0)
      assert.equal(Number(high), inPartition(partition).length, `high of ${partition}`)
    }
    const at = inPartition(0)[13].timestamp
    for (const { partition, offset } of await admin.fetchTopicOffsetsByTimestamp(topic, at)) {
      assert.equal(Number(offset), inPartition(partition).findIndex(r => r.timestamp >= at), `offset in ${partition}`)
    }
  })
  await check('describe and alter configs', async () => {
    const valueOf = async name => {
      const { resources } = await admin.describeConfigs({
        includeSynonyms: false, resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configNames: [name] }],
      })
      return resources[0].configEntries.find(entry => entry.configName === name).configValue
    }
    assert.equal(await valueOf('retention.ms'), '7200000')
    await admin.alterConfigs({
      validateOnly: false,
      resources: [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name: 'retention.ms', value: '9000000' }] }],
    })
    await until(async () => (await valueOf('retention.ms')) === '9000000', 'retention.ms 9000000')
  })
  await check('delete records below offset 5', async () => {
    const partitions = [...Array(PARTITIONS).keys()].map(partition => ({ partition, offset: '5' }))
    await admin.deleteTopicRecords({ topic, partitions })
    for (const { partition, low } of await admin.fetchTopicOffsets(topic)) {
      assert.equal(Number(low), 5, `low of ${partition}`)
    }
  })
  await check('create partitions: 6 to 7', async () => {
    await admin.createPartitions({ topicPartitions: [{ topic, count: 7 }] })
    await hasLeaders(admin, topic, 7)
  })
  await check('describe cluster: three brokers and a controller', async () => {
    const cluster = await admin.describeCluster()
    assert.equal(cluster.brokers.length, 3)
    assert.ok(cluster.brokers.some(b => b.nodeId === cluster.controller))
  })
  await check('delete topic', async () => {
    await admin.deleteTopics({ topics: [topic] })
    await until(async () => !(await admin.listTopics()).includes(topic), `${topic} gone`)
  })
  await admin.disconnect()
  process.exit(failures ? 1 : 0)
}

main().catch(error => {
  console.log(`FAIL ${CLIENT}: connect: ${error.message}`)
  process.exit(1)
})
