import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { test } from 'node:test';
import { app, exampleToml, stackOf, templateOf } from './sample';

test('the whole template of the example is the one that was reviewed', () => {
  const file = path.join(__dirname, 'snapshots', 'example.template.json');
  // The zips' hashes are left out: how small a file is packed is a matter of the Node version.
  const now = `${JSON.stringify(templateOf(exampleToml).toJSON(), undefined, 2)}\n`.replace(/[0-9a-f]{64}\.zip/g, '<hash>.zip');
  if (process.env['UPDATE_SNAPSHOTS']) fs.writeFileSync(file, now);
  assert.equal(now, fs.readFileSync(file, 'utf8'), 'the template has changed: read the difference, then `npm run snapshots`');
});

test('CloudFormation\'s own rules find nothing wrong with it', () => {
  const strict = app({ strict: true });
  stackOf(exampleToml, strict);
  const { directory } = strict.synth();
  const report = JSON.parse(fs.readFileSync(path.join(directory, 'validation-report.json'), 'utf8'));
  assert.deepEqual(report.pluginReports, []);
});

test('outputs tell operators and scripts the names they need', () => {
  const outputs = templateOf(exampleToml).toJSON().Outputs;
  assert.deepEqual(Object.keys(outputs), [
    'TableName',
    'BusName',
    'FailoverFunctionName',
    'WatchFunctionName',
    'ConfigureFunctionName',
    'FailuresQueueUrl',
    'NodeProfileWebA',
    'NodeProfileWebB',
  ]);
});

test('only ordinary resource types', () => {
  const types = new Set(Object.values(templateOf(exampleToml).toJSON().Resources).map((r) => (r as { Type: string }).Type));
  assert.deepEqual([...types].sort(), [
    'AWS::DynamoDB::Table',
    'AWS::Events::EventBus',
    'AWS::Events::Rule',
    'AWS::IAM::InstanceProfile',
    'AWS::IAM::Policy',
    'AWS::IAM::Role',
    'AWS::Lambda::EventInvokeConfig',
    'AWS::Lambda::Function',
    'AWS::Lambda::Permission',
    'AWS::Logs::LogGroup',
    'AWS::SQS::Queue',
    'AWS::SQS::QueuePolicy',
    'Custom::LeaseholdCluster',
  ]);
});
