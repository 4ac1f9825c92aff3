import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ConfigError, parseConfig, readConfig } from '../lib/config';
import { exampleToml } from './sample';

function problems(toml: string): readonly string[] {
  try {
    parseConfig(toml, 'cluster.toml');
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    return error.problems;
  }
  return [];
}

/** The example with one change must be refused for exactly this. */
function refused(from: string | RegExp, to: string, ...expected: (string | RegExp)[]): void {
  const changed = exampleToml.replace(from, to);
  assert.notEqual(changed, exampleToml, `the example holds no ${from}`);
  const found = problems(changed);
  assert.equal(found.length, expected.length, found.join('\n') || 'nothing was refused');
  expected.forEach((what, n) => {
    if (typeof what === 'string') assert.equal(found[n], what);
    else assert.match(found[n]!, what);
  });
}

test('the example is read whole', () => {
  assert.deepEqual(parseConfig(exampleToml, 'cluster.toml'), {
    deployment: 'leasehold',
    account: undefined,
    region: undefined,
    table: { deletionProtection: true },
    functions: { architecture: undefined, logRetentionDays: 30 },
    clusters: [
      {
        name: 'web',
        nodes: [
          { name: 'a', instance: 'i-0123456789abcdef0', eni: 'eni-0123456789abcdef0', priority: 1 },
          { name: 'b', instance: 'i-0123456789abcdef1', eni: 'eni-0123456789abcdef1', priority: 2 },
        ],
        virtualIps: [
          {
            address: '10.99.0.10',
            vpc: 'vpc-0123456789abcdef0',
            routeTables: ['rtb-0123456789abcdef0', 'rtb-0123456789abcdef1'],
            createIn: ['rtb-0123456789abcdef0'],
          },
        ],
        ports: undefined,
        allowForceStop: false,
        policy: { ttl_ms: 3000 },
      },
    ],
  });
});

test('every mistake is told at once, with its key, its value and what is allowed', () => {
  const found = problems(`
    deployment = "Leasehold"
    colour = "blue"
    [[cluster]]
    name = "web"
    ttl_ms = "3s"
    [[cluster.node]]
    name = "a"
    instance = "web-1"
    eni = "eni-0123456789abcdef0"
    prio = 1
    [[cluster.virtual_ip]]
    address = "10.99.0.10/32"
    vpc = "vpc-0123456789abcdef0"
  `);
  assert.deepEqual(found, [
    'deployment = "Leasehold": 3 to 40 of a-z, 0-9 and "-", beginning with a letter, not ending with "-"',
    'cluster[web].ttl_ms = "3s": a whole number from 1 to 86400000',
    'cluster[web].node[a].instance = "web-1": the id of an instance, such as "i-0123456789abcdef0"',
    'cluster[web].node[a].prio = 1: unknown key; known here: eni, instance, name, priority',
    'cluster[web].node is there once: a cluster has 2 or 3 nodes, each begun by [[cluster.node]]',
    'cluster[web].virtual_ip[0].address = "10.99.0.10/32": one IPv4 or IPv6 address outside every VPC\'s range, such as "10.99.0.10", without a prefix length',
    'cluster[web].virtual_ip[0].route_tables is missing: a list; each entry: the id of a route table, such as "rtb-0123456789abcdef0"',
    'colour = "blue": unknown key; known here: account, cluster, deployment, functions, region, table',
  ]);
});

describe('refused', () => {
  test('a missing name', () => refused('deployment = "leasehold"\n', '', /^deployment is missing: 3 to 40/));
  test('an unknown key of a table', () =>
    refused('deletion_protection', 'deletion_protected', /^table.deletion_protected = true: unknown key; known here: deletion_protection$/));
  test('an unknown timer', () =>
    refused('# [cluster.policy]', '[cluster.policy]\nttl = 3 #', /^cluster\[web\]\.policy\.ttl = 3: unknown key; known here: beat_ms/));
  test('a fraction of a millisecond', () => refused('ttl_ms = 3000', 'ttl_ms = 3000.5', /ttl_ms = 3000.5: a whole number/));
  test('the lease\'s length said twice', () =>
    refused('# [cluster.policy]', '[cluster.policy]\nttl_ms = 5000 #', /policy.ttl_ms = 5000: already set by ttl_ms of the cluster/));
  test('a retention that CloudWatch does not offer', () => refused('= 30', '= 31', /^functions.log_retention_days = 31: one of 1, 3, 5, 7/));
  test('another machine', () => refused('# architecture = "arm64"', 'architecture = "riscv"', 'functions.architecture = "riscv": one of "x86_64", "arm64"'));
  test('one instance as two nodes', () =>
    refused('"i-0123456789abcdef1"', '"i-0123456789abcdef0"', /^cluster\[web\].node.instance = "i-0123456789abcdef0": an instance can be one node only; node a of cluster web has it already$/));
  test('one interface for two nodes', () => refused('"eni-0123456789abcdef1"', '"eni-0123456789abcdef0"', /^cluster\[web\].node.eni = .* node a of cluster web/));
  test('two nodes of one name', () => refused('name = "b"', 'name = "a"', /each node of a cluster needs its own name/));
  test('two clusters of one name', () => {
    const second = exampleToml.slice(exampleToml.indexOf('[[cluster]]')).replaceAll('abcdef', 'abcde1').replace('10.99.0.10', '10.99.0.11');
    const found = problems(`${exampleToml}\n${second}`);
    assert.match(found[0]!, /name = "web": each cluster needs its own name/);
  });
  test('one address for two clusters, however it is written', () => {
    const v6 = exampleToml.replace('10.99.0.10', 'fd99::1');
    const second = exampleToml
      .slice(exampleToml.indexOf('[[cluster]]'))
      .replaceAll('abcdef', 'abcde1')
      .replace('"web"', '"db"')
      .replace('10.99.0.10', 'FD99:0::1');
    assert.deepEqual(problems(`${v6}\n${second}`), ['cluster[db].virtual_ip.address = "FD99:0::1": an address follows one cluster only; cluster web has it already']);
  });
  test('two nodes whose roles would have one name', () => {
    const second = exampleToml
      .slice(exampleToml.indexOf('[[cluster]]'), exampleToml.indexOf('# An address'))
      .replaceAll('abcdef', 'abcde1')
      .replace('"web"', '"web-a"');
    const found = problems(`${exampleToml.replace('name = "b"', 'name = "a-b"')}\n${second}`);
    assert.deepEqual(found, ['cluster[web-a].node.name = "b": its role would be called "leasehold-web-a-b"; node a-b of cluster web has it already']);
  });
  test('names that are too long together', () => {
    const long = 'w'.repeat(40);
    refused(/deployment = "leasehold"([^]*)name = "web"/, `deployment = "${'d'.repeat(40)}"$1name = "${long}"`, /has 83 characters, IAM allows 64/, /has 83 characters, IAM allows 64/);
  });
  for (const [address, why] of [
    ['169.254.169.1', 'link-local'],
    ['127.0.0.1', 'loopback'],
    ['fd00:ec2::254', 'reserved'],
    ['224.0.0.5', 'multicast'],
    ['::1', 'loopback'],
    ['10.99.0', 'one IPv4 or IPv6 address'],
    ['10.99.0.300', 'one IPv4 or IPv6 address'],
  ] as const) {
    test(`an address that no route can lead to: ${address}`, () => refused('10.99.0.10"\nvpc', `${address}"\nvpc`, new RegExp(why)));
  }
  test('more clusters than the functions can be told of', () => {
    const clusters = Array.from({ length: 100 }, (_, n) => `[[cluster]]\nname = "${'c'.repeat(36)}-${n}"\n`).join('');
    assert.match(problems(`deployment = "leasehold"\n${clusters}`).at(-1)!, /^cluster is there 100 times: all names together may have 3000 characters/);
  });
  for (const [ports, why] of [
    ['', /^cluster\[web\]\.ports\.service is missing: the workload's ports/],
    ['service = [0]', /ports\.service\[0\] = 0: a whole number from 1 to 65535/],
    ['service = [80, 80]', /ports\.service\[1\] = 80: each entry once/],
    ['service = 80', /ports\.service = 80: a list/],
    ['service = [80]\nhealth = 80', /ports\.health = 80: a port of its own/],
    ['health = 7402\nhealht = 1', /ports\.healht = 1: unknown key; known here: health, service/],
  ] as const) {
    test(`ports: ${ports || 'none'}`, () => refused('# [cluster.ports]', `[cluster.ports]\n${ports}\n#`, why));
  }
  test('creating a route in a table that may not be changed', () =>
    refused('create_in = ["rtb-0123456789abcdef0"]', 'create_in = ["rtb-00000000"]', 'cluster[web].virtual_ip[0].create_in = "rtb-00000000": only route tables that route_tables lists too'));
  test('an id that names something else', () => refused('vpc = "vpc-', 'vpc = "subnet-', /vpc = "subnet-0123456789abcdef0": the id of a VPC/));
  test('text that is no TOML, with its line', () => refused('[table]', '[table', /^not TOML: [^]*\^/));
});

test('a file that is not there', () => {
  assert.throws(() => readConfig('/nowhere/cluster.toml'), /\/nowhere\/cluster.toml: 1 problem; nothing was changed\n  cannot be read: ENOENT/);
});
