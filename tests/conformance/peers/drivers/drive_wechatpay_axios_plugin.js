// wechatpay-axios-plugin (npm), in both key modes. It verifies every answer but bills, signs and seals.
'use strict';

const { peer, account, obey } = require('./dialogue.js');
const { Wechatpay, Rsa, Aes, Formatter } = peer('wechatpay-axios-plugin');

function client(about, certs, privateKey = about.private_key) {
  const config = {
    baseURL: about.base_url, mchid: about.mchid, serial: about.merchant_serial, privateKey, certs, timeout: 10000, proxy: false,
  };
  return [new Wechatpay(config), config];
}

// Much as its own `wxpay crt` fetches them: what verifies the list runs after the list was opened. The client keeps its
// keys in a copy of `certs`, which it puts back into the configuration.
async function certificates(about) {
  const [first, config] = client(about, { any: undefined });
  const fetched = {};
  const open = (response) => {
    for (const { serial_no: serial, encrypt_certificate: sealed } of JSON.parse(response).data ?? []) {
      fetched[serial] = Aes.AesGcm.decrypt(sealed.ciphertext, about.api_v3_key, sealed.nonce, sealed.associated_data);
    }
    Object.assign(config.certs, fetched);
    return response;
  };
  await first.v3.certificates.get({ transformResponse: [open, ...first.client.v3.defaults.transformResponse] });
  return fetched;
}

// What the client throws because of the status is an answer; what it throws because of a signature is not.
async function told(request) {
  try {
    const { status, data } = await request;
    return { status, body: data || {} };
  } catch (error) {
    if (!(error.response?.status >= 400)) throw error;
    return { status: error.response.status, body: error.response.data || {} };
  }
}

async function main() {
  const about = await account();
  const certs = about.mode === 'certificate' ? await certificates(about) : { [about.public_key_id]: about.public_key };
  const headers = about.mode === 'certificate' ? {} : { 'Wechatpay-Serial': about.public_key_id };
  const [wx, config] = client(about, certs);
  const trade = wx.v3.pay.transactions.outTradeNo.$number$;
  const query = (wxpay, number) => told(
    wxpay.v3.pay.transactions.outTradeNo.$number$.get({ number, params: { mchid: about.mchid }, headers }),
  );

  await obey({
    certificates: () => Object.keys(config.certs),
    fetch: async () => { Object.assign(config.certs, await certificates(about)); },
    prepay: ({ kind, number, total, notify_url, ...more }) => told(
      wx.v3.pay.transactions[kind === 'mini' ? 'jsapi' : kind].post({
        appid: about.appid, mchid: about.mchid, description: `Tea ${number} 茶`, out_trade_no: number, notify_url,
        amount: { total, currency: 'CNY' }, ...more,
      }, { headers }),
    ),
    query: ({ number }) => query(wx, number),
    query_transaction: ({ transaction }) => told(
      wx.v3.pay.transactions.id.$transaction$.get({ transaction, params: { mchid: about.mchid }, headers }),
    ),
    close: ({ number }) => told(trade.close.post({ mchid: about.mchid }, { number, headers })),
    refund: ({ refund_no, number, refunded, total, notify_url }) => told(wx.v3.refund.domestic.refunds.post({
      out_trade_no: number, out_refund_no: refund_no, reason: '退货', notify_url,
      amount: { refund: refunded, total, currency: 'CNY' },
    }, { headers })),
    query_refund: ({ refund_no }) => told(wx.v3.refund.domestic.refunds.$refund_no$.get({ refund_no, headers })),
    bill: ({ day }) => told(
      wx.v3.bill.tradebill.get({ params: { bill_date: day, bill_type: 'ALL', tar_type: 'GZIP' }, headers }),
    ),
    file: async ({ url }) => {
      // It knows by the path alone that a file is not signed, so the token goes beside it.
      const { pathname, searchParams } = new URL(url);
      const params = Object.fromEntries(searchParams);
      const { status, data } = await wx.client.v3.get(pathname, { params, responseType: 'arraybuffer' });
      return { status, content: Buffer.from(data).toString('base64') };
    },
    rows: ({ text }) => Formatter.castCsvBill(Buffer.from(text)),
    read: ({ headers: got, body }) => {
      const header = Object.fromEntries(Object.entries(got).map(([name, value]) => [name.toLowerCase(), value]));
      const raw = Buffer.from(body, 'latin1').toString('utf8');
      const signed = Formatter.response(header['wechatpay-timestamp'], header['wechatpay-nonce'], raw);
      const key = Rsa.from(certs[header['wechatpay-serial']], Rsa.KEY_TYPE_PUBLIC);
      if (!Rsa.verify(signed, header['wechatpay-signature'], key)) throw new Error('the client does not believe it');
      const notice = JSON.parse(raw);
      const { ciphertext, nonce, associated_data: aad } = notice.resource;
      return { ...notice, resource: JSON.parse(Aes.AesGcm.decrypt(ciphertext, about.api_v3_key, nonce, aad)) };
    },
    sign: ({ message, private_key: key }) => Rsa.sign(message, Rsa.from(key, Rsa.KEY_TYPE_PRIVATE)),
    front: ({ parts, private_key: key }) => Rsa.sign(
      Formatter.joinedByLineFeed(...parts), Rsa.from(key, Rsa.KEY_TYPE_PRIVATE),
    ),
    seal: ({ text, key, nonce, associated_data: aad }) => Aes.AesGcm.encrypt(text, key, nonce, aad),
    stranger: ({ private_key: key, number }) => query(client(about, certs, key)[0], number),
  });
}

main();
