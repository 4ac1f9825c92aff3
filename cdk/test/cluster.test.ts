import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Template } from 'aws-cdk-lib/assertions';
import { ClusterConfig, contract } from '../lib/contract';
import { exampleToml, templateOf } from './sample';

const TYPE = contract.custom_resource.type;

function config(template: Template): { id: string; properties: Record<string, unknown>; dependsOn: string[] } {
  const [entry] = Object.entries(template.findResources(TYPE));
  assert.ok(entry, `no ${TYPE}`);
  return { id: entry[0], properties: entry[1]['Properties'], dependsOn: entry[1]['DependsOn'] };
}

test('ports of the nodes\' own addresses are handed on', () => {
  const { properties } = config(templateOf(`${exampleToml}\n[cluster.ports]\nservice = [5432, 80]\nhealth = 7402\n`));
  const value: ClusterConfig = JSON.parse(properties[contract.custom_resource.config_property] as string);
  assert.deepEqual(value.ports, { service: [5432, 80], health: 7402 });
  assert.deepEqual(Object.keys(value.ports!), contract.cluster_config.port_keys);
  assert.deepEqual([...Object.keys(value)].sort(), [...contract.cluster_config.keys].sort());
});

test('the config item\'s text is what the functions read: their keys and no others', () => {
  const { properties } = config(templateOf(exampleToml));
  assert.deepEqual(Object.keys(properties).sort(), [...contract.custom_resource.properties].sort());
  const text = properties[contract.custom_resource.config_property];
  assert.equal(typeof text, 'string');
  const value: ClusterConfig = JSON.parse(text as string);
  assert.deepEqual(value, {
    cluster: 'web',
    nodes: [
      { name: 'a', instance: 'i-0123456789abcdef0', priority: 1 },
      { name: 'b', instance: 'i-0123456789abcdef1', priority: 2 },
    ],
    virtual_ips: [{
      address: '10.99.0.10',
      vpc: 'vpc-0123456789abcdef0',
      route_tables: ['rtb-0123456789abcdef0', 'rtb-0123456789abcdef1'],
      create_in: ['rtb-0123456789abcdef0'],
    }],
    policy: { ttl_ms: 3000 },
  });
  const known = contract.cluster_config;
  assert.deepEqual(Object.keys(value), known.keys.filter((key) => key !== 'ports'), 'ports only where there are any');
  assert.deepEqual(Object.keys(value.nodes[0]!), known.node_keys);
  assert.deepEqual(Object.keys(value.virtual_ips[0]!), known.virtual_ip_keys);
});

test('a changed configuration changes the resource and nothing replaces it', () => {
  const before = config(templateOf(exampleToml));
  const after = config(templateOf(exampleToml.replace('ttl_ms = 3000', 'ttl_ms = 5000')));
  assert.equal(after.id, before.id);
  assert.notEqual(after.properties['Config'], before.properties['Config']);
  assert.deepEqual(config(templateOf(exampleToml)).properties, before.properties, 'the same file gives the same text');
});

test('the configure function, its rights and the table are there before it and go after it', () => {
  const template = templateOf(exampleToml);
  const needed = config(template).dependsOn;
  const types = needed.map((id) => template.toJSON().Resources[id].Type);
  assert.ok(needed.some((id) => id.startsWith('ControlPlaneConfigureRoleDefaultPolicy')), needed.join());
  assert.ok(types.includes('AWS::Lambda::Function') && types.includes('AWS::DynamoDB::Table') && types.includes('AWS::Logs::LogGroup'));
  for (const role of ['FailoverRoleDefaultPolicy', 'WatchRoleDefaultPolicy']) {
    assert.ok(needed.some((id) => id.includes(role)), `${role}: no address before the right to move it`);
  }
});

test('a function that never answers fails the deployment in two minutes, not in an hour', () => {
  assert.equal(config(templateOf(exampleToml)).properties['ServiceTimeout'], '120');
});
