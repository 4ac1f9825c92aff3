import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { test } from 'node:test';
import { contract } from '../lib/contract';
import { packageFolder } from './sample';

test('the contract is the JSON file that the Rust side reads', () => {
  assert.deepEqual(contract, JSON.parse(fs.readFileSync(path.join(packageFolder, 'contract.json'), 'utf8')));
});

test('what a node may write always includes the keys, which every request names', () => {
  for (const attributes of Object.values(contract.node_may_write)) {
    assert.ok(attributes.includes(contract.table.partition_key) && attributes.includes(contract.table.sort_key));
  }
});

test('the constructs spell no agreed name themselves', () => {
  const names = [contract.environment.table, contract.environment.bus, contract.custom_resource.type, ...contract.events.wake_failover];
  const folder = path.join(packageFolder, 'lib');
  for (const file of fs.readdirSync(folder)) {
    const code = fs.readFileSync(path.join(folder, file), 'utf8');
    for (const name of names) assert.ok(!new RegExp(`['"\`]${name}['"\`]`).test(code), `${file} spells ${name}`);
  }
});
