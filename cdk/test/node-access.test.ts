import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import * as dynamodb from 'aws-cdk-lib/aws-dynamodb';
import * as events from 'aws-cdk-lib/aws-events';
import { contract } from '../lib/contract';
import { NodeAccess } from '../lib/node-access';
import { actionsOf, app, statementsOf } from './sample';

const TABLE = 'arn:aws:dynamodb:eu-west-1:123456789012:table/leasehold';
const BUS = 'arn:aws:events:eu-west-1:123456789012:event-bus/leasehold';

function node(): Template {
  const stack = new Stack(app());
  new NodeAccess(stack, 'Node', {
    deployment: 'leasehold',
    cluster: 'web',
    node: 'a',
    table: dynamodb.Table.fromTableArn(stack, 'Table', TABLE),
    bus: events.EventBus.fromEventBusArn(stack, 'Bus', BUS),
  });
  return Template.fromStack(stack);
}

test('a node has four rights and no other', () => {
  const template = node();
  template.resourceCountIs('AWS::IAM::ManagedPolicy', 0);
  template.allResourcesProperties('AWS::IAM::Role', {
    RoleName: 'leasehold-web-a',
    AssumeRolePolicyDocument: {
      Statement: [{ Action: 'sts:AssumeRole', Effect: 'Allow', Principal: { Service: 'ec2.amazonaws.com' } }],
      Version: '2012-10-17',
    },
  });
  for (const role of Object.values(template.findResources('AWS::IAM::Role'))) {
    assert.equal(role['Properties'].ManagedPolicyArns, undefined);
    assert.equal(role['Properties'].Policies, undefined);
  }
  assert.deepEqual(statementsOf(template, 'Node'), [
    {
      Sid: 'ReadOwnCluster',
      Effect: 'Allow',
      Action: 'dynamodb:GetItem',
      Resource: TABLE,
      Condition: {
        'ForAllValues:StringLike': { 'dynamodb:LeadingKeys': ['web', 'web/*'] },
        Null: { 'dynamodb:LeadingKeys': 'false' },
      },
    },
    {
      Sid: 'MoveOwnLease',
      Effect: 'Allow',
      Action: 'dynamodb:UpdateItem',
      Resource: TABLE,
      Condition: {
        'ForAllValues:StringEquals': {
          'dynamodb:LeadingKeys': ['web'],
          'dynamodb:Attributes': contract.node_may_write.lease,
        },
        StringEqualsIfExists: { 'dynamodb:ReturnValues': 'NONE' },
        Null: { 'dynamodb:LeadingKeys': 'false', 'dynamodb:Attributes': 'false' },
      },
    },
    {
      Sid: 'WriteOwnHeartbeat',
      Effect: 'Allow',
      Action: 'dynamodb:UpdateItem',
      Resource: TABLE,
      Condition: {
        'ForAllValues:StringEquals': {
          'dynamodb:LeadingKeys': ['web/a'],
          'dynamodb:Attributes': contract.node_may_write.heartbeat,
        },
        StringEqualsIfExists: { 'dynamodb:ReturnValues': 'NONE' },
        Null: { 'dynamodb:LeadingKeys': 'false', 'dynamodb:Attributes': 'false' },
      },
    },
    {
      Sid: 'PutEvents',
      Effect: 'Allow',
      Action: 'events:PutEvents',
      Resource: BUS,
      Condition: { StringEquals: { 'events:source': 'leasehold' } },
    },
  ]);
});

test('no node can change the network, an instance or whole rows', () => {
  const actions = actionsOf(statementsOf(node(), 'Node'));
  assert.deepEqual(actions, ['dynamodb:GetItem', 'dynamodb:UpdateItem', 'dynamodb:UpdateItem', 'events:PutEvents']);
});

test('an operator\'s pause and the row\'s identity are out of a node\'s reach', () => {
  for (const attribute of ['paused', 'lineage', 'v', 'config', 'detail']) {
    assert.ok(!contract.node_may_write.lease.includes(attribute), attribute);
  }
});

test('the instance profile is called like the role', () => {
  node().hasResourceProperties('AWS::IAM::InstanceProfile', { InstanceProfileName: 'leasehold-web-a' });
});
