import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Match, Template } from 'aws-cdk-lib/assertions';
import { contract } from '../lib/contract';
import { INSTANCES_PER_RULE } from '../lib/control-plane';
import { actionsOf, exampleToml, statementsOf, templateOf } from './sample';

const template = templateOf(exampleToml);

function logicalId(of: Template, type: string, properties: unknown): string {
  const found = Object.keys(of.findResources(type, { Properties: properties }));
  assert.equal(found.length, 1, `${type} like ${JSON.stringify(properties)}: ${found.join(', ') || 'none'}`);
  return found[0]!;
}

describe('functions', () => {
  for (const name of contract.functions) {
    test(`${name} runs its zip with the agreed environment, its own log group and no repeats of stale hints`, () => {
      const id = logicalId(template, 'AWS::Lambda::Function', { FunctionName: `leasehold-${name}` });
      template.hasResourceProperties('AWS::Lambda::Function', {
        FunctionName: `leasehold-${name}`,
        Runtime: 'provided.al2023',
        Handler: 'bootstrap',
        MemorySize: 128,
        Architectures: ['x86_64'],
        Environment: { Variables: { LEASEHOLD_TABLE: Match.anyValue(), LEASEHOLD_BUS: Match.anyValue(), LEASEHOLD_CLUSTERS: 'web' } },
        LoggingConfig: {
          LogGroup: { Ref: logicalId(template, 'AWS::Logs::LogGroup', { LogGroupName: `/aws/lambda/leasehold-${name}` }) },
        },
      });
      const variables = template.findResources('AWS::Lambda::Function')[id]!['Properties'].Environment.Variables;
      assert.deepEqual(Object.keys(variables).sort(), Object.values(contract.environment).sort());
      template.hasResourceProperties('AWS::Lambda::EventInvokeConfig', {
        FunctionName: { Ref: id },
        MaximumEventAgeInSeconds: 60,
        MaximumRetryAttempts: 0,
      });
    });
  }

  test('the architecture follows the configuration', () => {
    templateOf(`${exampleToml.replace('# architecture = "arm64"', 'architecture = "arm64"')}`).allResourcesProperties(
      'AWS::Lambda::Function',
      { Architectures: ['arm64'] },
    );
  });

  test('logs are kept as long as configured', () => {
    templateOf(exampleToml.replace('log_retention_days = 30', 'log_retention_days = 7')).allResourcesProperties(
      'AWS::Logs::LogGroup',
      { RetentionInDays: 7 },
    );
  });

  test('runs of failover and watch that come to nothing end in the queue', () => {
    const queue = logicalId(template, 'AWS::SQS::Queue', { QueueName: 'leasehold-failures' });
    for (const name of ['failover', 'watch']) {
      template.hasResourceProperties('AWS::Lambda::EventInvokeConfig', {
        FunctionName: { Ref: logicalId(template, 'AWS::Lambda::Function', { FunctionName: `leasehold-${name}` }) },
        DestinationConfig: { OnFailure: { Destination: { 'Fn::GetAtt': [queue, 'Arn'] } } },
      });
    }
  });
});

describe('rights', () => {
  for (const name of ['Failover', 'Watch']) {
    test(`${name} reads and changes rows, sees the network, and moves only what the configuration lists`, () => {
      const statements = statementsOf(template, `ControlPlane${name}`);
      assert.deepEqual(
        actionsOf(statements).filter((action) => !action.startsWith('sqs:') && !action.startsWith('logs:')),
        [
          'dynamodb:GetItem',
          'dynamodb:PutItem',
          'dynamodb:Query',
          'dynamodb:UpdateItem',
          'ec2:CreateRoute',
          'ec2:DescribeInstances',
          'ec2:DescribeNetworkInterfaces',
          'ec2:DescribeRouteTables',
          'ec2:DescribeSubnets',
          'ec2:DescribeVpcs',
          'ec2:ModifyNetworkInterfaceAttribute',
          'ec2:ReplaceRoute',
          'events:PutEvents',
        ],
      );
      const resources = (sid: string) => JSON.stringify(statements.find((s) => s.Sid === sid)?.Resource);
      assert.deepEqual([...resources('MoveRoutes').matchAll(/:route-table\/[^"]+/g)].map(String), [
        ':route-table/rtb-0123456789abcdef0',
        ':route-table/rtb-0123456789abcdef1',
      ]);
      assert.deepEqual([...resources('SourceDestCheck').matchAll(/:network-interface\/[^"]+/g)].map(String), [
        ':network-interface/eni-0123456789abcdef0',
        ':network-interface/eni-0123456789abcdef1',
      ]);
    });
  }

  test('failover alone may stop instances, and only those of a cluster that allows it', () => {
    assert.ok(!JSON.stringify(template.toJSON()).includes('ec2:StopInstances'), 'not unless the file says so');
    const second = `\n[[cluster]]\nname = "other"\n${['2', '3'].map((n) => `[[cluster.node]]\nname = "n${n}"\ninstance = "i-0123456789abcdef${n}"\neni = "eni-0123456789abcdef${n}"\n`).join('')}`;
    const allowed = templateOf(exampleToml.replace('# allow_force_stop', 'allow_force_stop') + second);
    const statement = statementsOf(allowed, 'ControlPlaneFailover').find((s) => s.Sid === 'StopByForce');
    assert.deepEqual([statement?.Effect, statement?.Action], ['Allow', 'ec2:StopInstances']);
    assert.deepEqual([...JSON.stringify(statement?.Resource).matchAll(/:instance\/[^"]+/g)].map(String), [
      ':instance/i-0123456789abcdef0',
      ':instance/i-0123456789abcdef1',
    ]);
    assert.ok(!actionsOf(statementsOf(allowed, 'ControlPlaneWatch')).includes('ec2:StopInstances'));
  });

  test('configure stores configs and looks at the network, and can change nothing of it', () => {
    assert.deepEqual(
      actionsOf(statementsOf(template, 'ControlPlaneConfigure')).filter((action) => !action.startsWith('logs:')),
      ['dynamodb:DeleteItem', 'dynamodb:GetItem', 'dynamodb:UpdateItem', 'ec2:DescribeRouteTables', 'ec2:DescribeVpcs'],
    );
  });

  test('"*" as a resource stands only where AWS knows no narrower one: describing EC2', () => {
    for (const policy of Object.values(template.findResources('AWS::IAM::Policy'))) {
      for (const statement of policy['Properties'].PolicyDocument.Statement) {
        if (![statement.Resource].flat().includes('*')) continue;
        for (const action of [statement.Action].flat()) assert.match(action, /^ec2:Describe/);
      }
    }
    template.resourceCountIs('AWS::IAM::ManagedPolicy', 0);
    for (const role of Object.values(template.findResources('AWS::IAM::Role'))) {
      assert.equal(role['Properties'].ManagedPolicyArns, undefined, 'AWS\'s managed policies grant on "*"');
    }
  });

  test('without virtual addresses there is nothing to move, and no right to', () => {
    const bare = templateOf(exampleToml.slice(0, exampleToml.indexOf('# An address')));
    assert.ok(!actionsOf(statementsOf(bare, 'ControlPlaneFailover')).includes('ec2:ReplaceRoute'));
  });
});

describe('what wakes them', () => {
  test('the nodes\' events wake failover', () => {
    template.hasResourceProperties('AWS::Events::Rule', {
      EventBusName: { Ref: logicalId(template, 'AWS::Events::EventBus', { Name: 'leasehold' }) },
      EventPattern: {
        source: ['leasehold'],
        'detail-type': ['Holder Suspected', 'Resource Failed', 'Handover Requested', 'Node Joined', 'Failover Accepted'],
      },
      Targets: [Match.objectLike({ RetryPolicy: { MaximumEventAgeInSeconds: 60, MaximumRetryAttempts: 8 }, DeadLetterConfig: Match.anyValue() })],
    });
  });

  test('EC2\'s events wake failover for the configured instances only', () => {
    const ids = ['i-0123456789abcdef0', 'i-0123456789abcdef1'];
    template.hasResourceProperties('AWS::Events::Rule', {
      EventBusName: Match.absent(),
      EventPattern: {
        source: ['aws.ec2'],
        'detail-type': ['EC2 Instance State-change Notification'],
        detail: { state: ['stopped', 'terminated'], 'instance-id': ids },
      },
    });
    template.hasResourceProperties('AWS::Events::Rule', {
      EventBusName: Match.absent(),
      EventPattern: {
        source: ['aws.ec2'],
        'detail-type': ['EC2 Spot Instance Interruption Warning'],
        detail: { 'instance-id': ids },
      },
    });
  });

  test('AWS Health\'s scheduled changes of EC2 wake failover', () => {
    template.hasResourceProperties('AWS::Events::Rule', {
      EventBusName: Match.absent(),
      EventPattern: {
        source: ['aws.health'],
        'detail-type': ['AWS Health Event'],
        detail: { service: ['EC2'], eventTypeCategory: ['scheduledChange'] },
      },
      Targets: [Match.objectLike({ RetryPolicy: { MaximumEventAgeInSeconds: 60, MaximumRetryAttempts: 8 }, DeadLetterConfig: Match.anyValue() })],
    });
  });

  test('many instances are spread over several rules, each within EventBridge\'s pattern length', () => {
    const clusters = Array.from({ length: 60 }, (_, n) => {
      const id = (nth: number) => (2 * n + nth).toString(16).padStart(17, '0');
      return `[[cluster]]\nname = "c${n}"\n${['a', 'b'].map((name, nth) => `[[cluster.node]]\nname = "${name}"\ninstance = "i-${id(nth)}"\neni = "eni-${id(nth)}"\n`).join('')}`;
    });
    const many = templateOf(`deployment = "leasehold"\n${clusters.join('')}`);
    const patterns = Object.values(many.findResources('AWS::Events::Rule')).map((r) => r['Properties'].EventPattern);
    const listed = patterns.filter((p) => p?.detail?.state).map((p) => p.detail['instance-id'].length);
    assert.deepEqual(listed, [INSTANCES_PER_RULE, 120 - INSTANCES_PER_RULE]);
    for (const pattern of patterns) assert.ok(JSON.stringify(pattern ?? {}).length <= 2048);
  });

  test('watch looks each minute', () => {
    template.hasResourceProperties('AWS::Events::Rule', {
      ScheduleExpression: 'rate(1 minute)',
      Targets: [
        Match.objectLike({
          Arn: { 'Fn::GetAtt': [logicalId(template, 'AWS::Lambda::Function', { FunctionName: 'leasehold-watch' }), 'Arn'] },
        }),
      ],
    });
  });

  test('a deployment without clusters is woken by no instance', () => {
    const bare = templateOf('deployment = "leasehold"');
    assert.ok(!/aws\.(ec2|health)/.test(JSON.stringify(bare.toJSON())));
    bare.resourceCountIs(contract.custom_resource.type, 0);
  });
});
